"""Importing mamba-ssm where its kernels cannot be: nothing stays behind, nothing on a GPU changes."""

import importlib.util
import subprocess
import sys
from importlib import import_module
from types import SimpleNamespace

import pytest
import torch

from shapcut.support.errors import InputError
from shapcut_adapters.mamba_ssm import package
from shapcut_adapters.mamba_ssm.adapter import MambaSSMAdapter
from shapcut_adapters.mamba_ssm.checkpoint import load_model
from shapcut_adapters.mamba_ssm.format import MambaSSMFormat
from shapcut_adapters.mamba_ssm.kernels import absent_triton
from shapcut_adapters.mamba_ssm.kernels.cpu_kernels import install_cpu_paths
from shapcut_adapters.mamba_ssm.kernels.kernel_choice import KernelChoice, choose_function, choose_kernel

IMPORT_WITHOUT_TRITON = """
import sys
from importlib import import_module
sys.modules["triton"] = None  # not importable, even where it is installed
from shapcut_adapters.mamba_ssm import package
for name in package._IMPORTED_BEFORE:
    import_module(name)
before = set(sys.modules)
package.import_mamba_ssm()
own = ("mamba_ssm", "shapcut")
stdlib = sys.stdlib_module_names
print(sorted(n for n in set(sys.modules) - before if not n.startswith(own) and n.split(".")[0] not in stdlib))
print([n for n in ("triton.language", "selective_scan_cuda") if n in sys.modules], sys.modules["triton"])
from torch.utils._triton import has_triton_package
from transformers.utils import is_triton_available
print(has_triton_package(), is_triton_available())
"""


def run_python(code):
    command = [sys.executable, "-W", "error", "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_stand_ins_are_seen_by_the_package_only_and_are_gone_afterwards():
    result = run_python(IMPORT_WITHOUT_TRITON)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == ["[]", "[] None", "False False"]


def test_a_missing_kernel_says_so():
    kernel = absent_triton.Kernel(run_python)
    with pytest.raises(absent_triton.MissingKernelError, match="run_python of mamba-ssm needs Triton"):
        kernel[(1,)]


def test_nothing_stands_in_for_what_is_installed(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: "found")
    before = dict(sys.modules)
    with absent_triton.stand_ins():
        assert sys.modules == before
    package.require_kernels(torch.device("cuda"))


def test_a_gpu_without_kernels_is_refused_before_anything_is_read(monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="without its kernels: use --device cpu"):
        load_model(tmp_path, device=torch.device("cuda"))


def test_stand_ins_go_when_the_import_fails():
    before, during = set(sys.modules), set()

    def fail():
        with absent_triton.stand_ins():
            during.update(sys.modules)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert "selective_scan_cuda" in during
    assert set(sys.modules) == before


def test_importing_again_gives_the_same_and_installs_nothing_twice():
    first = package.import_mamba_ssm()
    norms = import_module("mamba_ssm.ops.triton.layer_norm")
    mamba2 = import_module("mamba_ssm.modules.mamba2")
    before = (norms.LayerNormFn, mamba2.Mamba2.forward, mamba2.selective_state_update)
    install_cpu_paths()
    assert package.import_mamba_ssm() is first
    assert (norms.LayerNormFn, mamba2.Mamba2.forward, mamba2.selective_state_update) == before
    assert not isinstance(norms.LayerNormFn.kernel, KernelChoice)


class OnGPU(torch.Tensor):
    """Says that it is on a GPU."""

    @property
    def is_cuda(self):
        return True


class Negation(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, factor=1):
        return -x * factor


def test_an_autograd_function_is_kept_for_tensors_on_a_gpu():
    module = SimpleNamespace(Negation=Negation)
    choose_kernel(module, "Negation", lambda given: (given["x"] + given["factor"], "plain"))
    x = torch.ones(2)
    assert module.Negation.apply(x)[1] == "plain"
    assert torch.equal(module.Negation.apply(x, 4)[0], torch.full((2,), 5.0))
    on_gpu = module.Negation.apply(x.as_subclass(OnGPU), 4)
    assert torch.equal(torch.Tensor(on_gpu), torch.full((2,), -4.0))


def test_a_function_is_kept_for_tensors_on_a_gpu_however_it_is_called():
    owner = SimpleNamespace(run=lambda *given, **options: "kernel", missing=None)
    choose_function(owner, "run", lambda *given, **options: "plain")
    choose_function(owner, "missing", lambda *given, **options: "plain")
    x = torch.ones(2)
    assert [owner.run(x), owner.run(None, x), owner.run(x=x)] == ["plain"] * 3
    gpu = x.as_subclass(OnGPU)
    assert [owner.run(gpu), owner.run(None, gpu), owner.run(x=gpu)] == ["kernel"] * 3
    assert owner.missing is None


def test_what_no_language_model_asks_for_is_refused():
    package.import_mamba_ssm()
    norms = import_module("mamba_ssm.ops.triton.layer_norm")
    x = torch.ones(1, 2, 8)
    with pytest.raises(ValueError, match="x1"):
        norms.layer_norm_fn(x, torch.ones(8), None, x1=x)
    scans = import_module("mamba_ssm.modules.mamba2")
    heads = torch.ones(1, 2, 1, 8)
    with pytest.raises(ValueError, match="seq_idx"):
        scans.mamba_chunk_scan_combined(
            heads, heads[..., 0], -torch.ones(1), heads, heads, 4, seq_idx=torch.zeros(1, 2)
        )


@pytest.fixture
def not_installed(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "mamba_ssm" else find(name))
    package.import_mamba_ssm.cache_clear()
    yield
    package.import_mamba_ssm.cache_clear()


def test_without_the_package_nothing_matches_and_one_line_says_what_to_install(
    not_installed, monkeypatch, tmp_path
):
    monkeypatch.delitem(sys.modules, "mamba_ssm", raising=False)
    adapter = MambaSSMAdapter()
    assert not adapter.matches(torch.nn.Linear(2, 2))
    with pytest.raises(InputError, match="MAMBA_SKIP_CUDA_BUILD=TRUE pip install") as raised:
        MambaSSMFormat().check(tmp_path)
    assert "\n" not in str(raised.value)
    with pytest.raises(InputError, match="is not installed"):
        adapter.example(0)


def test_a_package_that_is_laid_out_otherwise_is_refused_in_one_line(monkeypatch):
    norms = import_module("mamba_ssm.ops.triton.layer_norm")
    package.import_mamba_ssm.cache_clear()
    monkeypatch.delattr(norms, "LayerNormFn")
    with pytest.raises(InputError, match=r"mamba-ssm \d.* cannot be used here.*LayerNormFn"):
        package.import_mamba_ssm()


MAMBA_OF_TRANSFORMERS = """
import torch
from shapcut_adapters.transformers.adapter import HFDecoderAdapter
from shapcut_adapters.mamba_ssm.package import import_mamba_ssm
import_mamba_ssm()
for family in ("mamba", "zamba2"):
    adapter = HFDecoderAdapter()
    model, tokens = adapter.examples()[family](0)
    cached, uncached = (adapter.generate(model, tokens, 6, use_cache=use) for use in (True, False))
    assert torch.equal(cached, uncached), family
    model.train()(input_ids=tokens, labels=tokens).loss.backward()
"""


@pytest.mark.skipif(absent_triton.has_kernels(), reason="with kernels they are transformers' own choice")
def test_mamba_models_of_transformers_that_are_imported_later_decode_and_train():
    result = run_python(MAMBA_OF_TRANSFORMERS)
    assert result.returncode == 0, result.stderr
