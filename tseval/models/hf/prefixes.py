"""What is kept of texts that were read, so that a beginning which several share is read once.

A tree over token ids: each node holds keys and values of a run of tokens, each path from the root
is the beginning of some text. A text that comes later takes what the tree has of it and reads the
rest only. The tree has a size in bytes; what was not asked for longest goes first.

What is kept belongs to the model as it computed then: whoever changes that (hooks, weights) has to
clear the tree.

Legend: H heads, T tokens of a node, D width; a pair is keys and values of one layer, [H, T, D],
None for a layer that looks into another's.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import torch

    Pairs = list[tuple[torch.Tensor, torch.Tensor] | None]

# Copying fewer tokens takes longer than reading them.
LEAST_SHARED = 32
# Positions are turned by angles that depend on the whole text's length: what was kept of a long
# text would not fit a short one.
_CHANGING_ROPE = ("dynamic", "longrope")


class Node:
    """A run of tokens in the tree, behind the tokens of its parents.

    Attributes:
        ids: Token ids, at least one but for the root.
        pairs: Keys and values of each layer.
        parent: None for the root and for nodes that left the tree.
        children: By their first token.
    """

    __slots__ = ("children", "ids", "pairs", "parent")

    def __init__(self, ids: list[int], pairs: "Pairs", parent: "Node | None") -> None:
        self.ids = ids
        self.pairs = pairs
        self.parent = parent
        self.children: dict[int, Node] = {}

    @property
    def size_bytes(self) -> int:
        """Memory of keys and values."""
        return sum(part.nbytes for pair in self.pairs for part in pair or ())


class Stretch(NamedTuple):
    """The first ``tokens`` tokens of a node."""

    node: Node
    tokens: int


class PrefixTree:
    """Keys and values of beginnings of texts.

    Args:
        capacity: Most bytes; 0 keeps nothing.
        token_bytes: Bytes of keys and values a token, until some are seen.

    Attributes:
        capacity: As given, or less after :meth:`halve`.
        size_bytes: What it holds now.
    """

    def __init__(self, capacity: int, token_bytes: int) -> None:
        self.capacity = capacity
        self.size_bytes = 0
        self._token_bytes = max(token_bytes, 1)
        self._root = Node([], [], None)
        # Oldest use first. A use is noted from the leaf to the root, so a parent is always
        # younger than its children and the oldest node is a leaf.
        self._used: OrderedDict[Node, None] = OrderedDict()

    def find(self, ids: list[int], most: int) -> list[Stretch]:
        """Give the longest beginning of a text that is kept, of at most ``most`` tokens.

        Returns:
            Stretches from the root on; together they are the beginning.
        """
        path = self._walk(ids, most)
        self._touch(path)
        return path

    def keep(self, ids: list[int], read: "Callable[[int, int], Pairs]") -> None:
        """Keep a text, as far as there is room.

        Args:
            ids: Its token ids.
            read: Copies keys and values of its tokens [start, stop) out of wherever they are.
        """
        path = self._walk(ids, len(ids))
        self._touch(path)
        known = sum(stretch.tokens for stretch in path)
        wanted = (len(ids) - known) * self._token_bytes
        if not wanted or not self._make_room(wanted, {stretch.node for stretch in path}):
            return
        parent = self._root
        if path:
            last = path[-1]
            parent = last.node
            if last.tokens < len(last.node.ids):
                parent = self._split(last.node, last.tokens)
        node = Node(ids[known:], read(known, len(ids)), parent)
        parent.children[node.ids[0]] = node
        self.size_bytes += node.size_bytes
        self._token_bytes = -(-node.size_bytes // len(node.ids))
        self._touch([*self._path_to(parent), Stretch(node, len(node.ids))])

    def clear(self) -> None:
        """Forget everything."""
        self._root = Node([], [], None)
        self._used.clear()
        self.size_bytes = 0

    def halve(self) -> None:
        """Take half as much memory from now on, after it ran out."""
        self.clear()
        self.capacity //= 2

    def _walk(self, ids: list[int], most: int) -> list[Stretch]:
        path: list[Stretch] = []
        node, at = self._root, 0
        while at < most and (child := node.children.get(ids[at])) is not None:
            same = shared_length(child.ids, ids[at : min(at + len(child.ids), most)])
            path.append(Stretch(child, same))
            at += same
            if same < len(child.ids):
                break
            node = child
        return path

    def _touch(self, path: Sequence[Stretch]) -> None:
        for stretch in reversed(path):
            self._used[stretch.node] = None
            self._used.move_to_end(stretch.node)

    def _path_to(self, node: Node) -> list[Stretch]:
        path = []
        while node.parent is not None:
            path.append(Stretch(node, len(node.ids)))
            node = node.parent
        return path[::-1]

    def _split(self, node: Node, at: int) -> Node:
        """Part a node in two and return the upper one.

        Both get memory of their own: a view would hold all of it after the other has gone.
        """
        assert node.parent is not None
        upper = Node(node.ids[:at], _cut(node.pairs, slice(None, at)), node.parent)
        node.pairs = _cut(node.pairs, slice(at, None))
        node.ids = node.ids[at:]
        node.parent.children[upper.ids[0]] = upper
        upper.children[node.ids[0]] = node
        node.parent = upper
        self._used[upper] = None
        return upper

    def _make_room(self, wanted: int, spared: set[Node]) -> bool:
        """Let the oldest leaves go until there is room; say whether there is."""
        if wanted > self.capacity:
            return False
        while self.size_bytes + wanted > self.capacity:
            oldest = next(iter(self._used))
            if oldest in spared:
                return False
            assert oldest.parent is not None
            del oldest.parent.children[oldest.ids[0]]
            del self._used[oldest]
            self.size_bytes -= oldest.size_bytes
            oldest.parent = None
        return True


def _cut(pairs: "Pairs", tokens: slice) -> "Pairs":
    return [
        None if pair is None else (pair[0][:, tokens].clone(), pair[1][:, tokens].clone())
        for pair in pairs
    ]


def shared_length(one: list[int], other: list[int]) -> int:
    """Count the tokens that two texts begin with in common."""
    size = min(len(one), len(other))
    if one[:size] == other[:size]:
        return size
    return next(n for n in range(size) if one[n] != other[n])


def read_first(texts: Sequence[list[int]], kept: Sequence[int], pass_cost: int) -> list[int]:
    """Choose the texts that are read now; the others wait, since they share what these leave.

    Sorted, texts that share a beginning are neighbours. Of neighbours that share more than is
    kept the longest is read first, if what all that wait need not read is worth another pass.

    Args:
        texts: Token ids.
        kept: Tokens that each need not read as it is.
        pass_cost: What a pass costs whatever its size, in tokens.

    Returns:
        Indices, at least one; in order.
    """
    every = list(range(len(texts)))
    first: list[int] = []
    gained = 0
    for run, links in _runs(texts, kept):
        longest = max(range(len(run)), key=[len(texts[n]) for n in run].__getitem__)
        gains = _gains(run, links, longest, kept)
        gained += sum(gains)
        # Who gains nothing by waiting need not wait.
        first += [run[n] for n, gain in enumerate(gains) if n == longest or gain <= 0]
    return sorted(first) if gained > pass_cost else every


def _runs(texts: Sequence[list[int]], kept: Sequence[int]) -> Iterator[tuple[list[int], list[int]]]:
    """Yield texts that share more than is kept, as indices, and what neighbours share."""
    order = sorted(range(len(texts)), key=texts.__getitem__)
    run, links = order[:1], []
    for one, other in pairwise(order):
        link = _shareable(texts[one], texts[other])
        if link > max(min(kept[one], kept[other]), LEAST_SHARED - 1):
            run.append(other)
            links.append(link)
        else:
            yield run, links
            run, links = [other], []
    if run:
        yield run, links


def _shareable(one: list[int], other: list[int]) -> int:
    """Tokens that one can take from the other; the last one is read for what follows it."""
    return min(shared_length(one, other), len(one) - 1, len(other) - 1)


def _gains(run: list[int], links: list[int], first: int, kept: Sequence[int]) -> list[int]:
    """Say what each text of a run need not read once one of them was read."""
    gains = [0] * len(run)
    for step in (-1, 1):
        n, common = first, None
        while 0 <= n + step < len(run):
            link = links[min(n, n + step)]
            common = link if common is None else min(common, link)
            n += step
            gains[n] = common - kept[run[n]]
    return gains


def may_share(model: Any) -> bool:
    """Say whether keys of a text's beginning are the same whatever follows it."""

    def changes(settings: object) -> bool:
        if not isinstance(settings, dict):
            return False
        kind = settings.get("rope_type", settings.get("type"))
        return kind in _CHANGING_ROPE or any(map(changes, settings.values()))

    config = model.config.get_text_config()
    names = ("rope_parameters", "rope_scaling")
    return not any(changes(getattr(config, name, None)) for name in names)
