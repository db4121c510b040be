"""Whether inference engines run a pruned model as they run the uncut one."""
