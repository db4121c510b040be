"""A reporter that remembers what it is told."""

from shapcut.support.progress import Silent


class Heard(Silent):
    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, message: str) -> None:
        self.said.append(message)
