"""The tree keeps one branch to each node, whatever is lost, and nobody can cut another's."""

from __future__ import annotations

from beemesh.ids import NodeId
from beemesh.topics.messages import MESSAGE_ID_BYTES, Graft, IHave, Prune
from beemesh.topics.plumtree import (
    GRAFT_AFTER,
    LAZY_PATIENCE_S,
    REGRAFT_AFTER,
    SILENT_TELLS,
    TELL_AFTER_S,
    TELL_PUSHED_AFTER_S,
    Tree,
)

A, B, C = (NodeId(letter * 32) for letter in (b"a", b"b", b"c"))


def _key(number: int = 0) -> bytes:
    return number.to_bytes(MESSAGE_ID_BYTES, "big")


def _tree(*peers: NodeId) -> Tree:
    tree = Tree()
    for peer in peers:
        tree.add(peer, 0.0, eager=False, recent=())
    return tree


def _settled(*peers: NodeId, eager: NodeId = A) -> Tree:
    """A tree whose one branch is `eager`."""
    tree = _tree(*peers)
    tree.was_pushed(eager)
    for peer in peers:
        if peer != eager:
            tree.pruned(peer)
    return tree


def test_the_first_message_makes_the_tree_and_later_links_are_lazy() -> None:
    """Before any message all links push; afterwards a new one does only where there is no other, or when asked."""
    tree = _tree(A, B)
    assert tree.eager() == [A, B]

    tree.was_pushed(A)
    tree.add(C, 0.0, eager=False, recent=())
    assert tree.eager() == [A, B]
    tree.add(C, 0.0, eager=True, recent=())
    assert tree.eager() == [A, B, C]


def test_a_second_straight_copy_prunes_its_link_alone() -> None:
    """The link that brought it second is pruned; nothing is when the first copy was a repair, or came over it too."""
    tree = _tree(A, B)
    assert tree.repeated(_key(), B, None, 0.0) == []
    assert tree.repeated(_key(), B, B, 0.0) == []
    assert tree.repeated(_key(), B, C, 0.0) == []
    assert tree.eager() == [A, B]

    assert set(tree.repeated(_key(), B, A, 0.0)) == {(B, Prune())}
    assert tree.eager() == [A]


def test_only_the_other_end_may_prune_or_graft_a_link() -> None:
    """A prune or graft concerns the link that it comes over; from anybody else it changes nothing."""
    tree = _tree(A, B)
    assert not tree.pruned(C)
    assert not tree.grafted(C)
    assert tree.eager() == [A, B]
    assert tree.pruned(A)
    assert tree.eager() == [B]
    assert tree.grafted(A)
    assert tree.eager() == [A, B]


def test_an_id_is_told_until_the_other_end_has_it() -> None:
    """Over each link an id is told again and again, ever more rarely, until it is acknowledged or given up."""
    tree = _tree(A, B, C)
    tree.took(_key(), C, (), (A,), 0.0)

    assert tree.flush(TELL_AFTER_S[0]) == [(B, IHave((_key(),))), (C, IHave((), (_key(),)))]
    assert tree.flush(TELL_PUSHED_AFTER_S) == [(A, IHave((_key(),)))]
    tree.acknowledged(A, (_key(),))
    now_s, told = TELL_PUSHED_AFTER_S, 1
    while (at_s := tree.next_s()) is not None:
        assert at_s > now_s
        now_s = at_s
        letters = tree.flush(now_s)
        told += letters == [(B, IHave((_key(),)))]
    assert told == len(TELL_AFTER_S)


def test_what_is_told_is_acknowledged_together() -> None:
    """Whoever tells of messages that are here hears so once, in one word, and is told of them no more."""
    tree = _tree(A)
    tree.took(_key(1), C, (), (), 0.0)
    tree.took(_key(2), C, (), (), 0.0)
    tree.told(A, _key(1), 0.0)
    tree.told(A, _key(2), 0.0)

    assert tree.flush(0.05) == [(A, IHave((), (_key(1), _key(2))))]
    assert tree.next_s() is None


def test_a_lazy_link_is_asked_late() -> None:
    """What a lazy link tells of is probably on its way over a branch; what a branch tells of was lost on it."""
    tree = _settled(A, B)
    assert tree.patience_s(A) == 0.0
    assert tree.patience_s(B) == LAZY_PATIENCE_S
    assert tree.patience_s(C) == LAZY_PATIENCE_S
    assert _tree().patience_s(C) == 0.0


def test_a_node_that_no_branch_serves_grafts_one() -> None:
    """Repairs in a row without any branch end in a graft of the link that helped; a push in between starts anew."""
    tree = _settled(A, B)
    for number in range(GRAFT_AFTER - 1):
        assert tree.was_repaired(_key(number), B, (B,), float(number)) == []
    tree.was_pushed(A)
    for number in range(GRAFT_AFTER - 1):
        assert tree.was_repaired(_key(number), B, (B,), float(number)) == []
    assert tree.was_repaired(_key(99), B, (B, A), 99.0) == [], "a branch told of it: it was only lost"
    assert tree.was_repaired(_key(100), B, (B,), 100.0) == [(B, Graft())]
    assert tree.eager() == [A, B]


def test_a_branch_that_never_pushes_is_grafted_again() -> None:
    """When a graft was lost, the other end only tells: after some messages it is asked again."""
    tree = _settled(A, B)
    letters = [tree.unpushed(A) for _ in range(REGRAFT_AFTER)]

    assert letters == [[]] * (REGRAFT_AFTER - 1) + [[(A, Graft())]]
    assert tree.unpushed(B) == []


def test_a_lost_branch_is_replaced_at_once() -> None:
    """When the link of a branch is gone, another one takes its place; a lazy one leaves no gap."""
    tree = _settled(A, B, C)
    assert tree.remove(C) == []
    assert tree.remove(A) == [(B, Graft())]
    assert tree.eager() == [B]


def test_a_link_that_never_answers_is_silent() -> None:
    """Ids that are told again and again without any word back mean that nobody is there; any word clears it."""
    tree = _tree(A, B)
    for number in range(SILENT_TELLS):
        tree.took(_key(number), C, (), (), float(number))
        tree.flush(number + TELL_AFTER_S[0])
        tree.heard(B)
        tree.acknowledged(A, (_key(number),))
        tree.acknowledged(B, (_key(number),))

    assert tree.silent() == [A]
    tree.heard(A)
    assert tree.silent() == []


def test_a_new_link_catches_up() -> None:
    """The other end of a new link is told of recent messages at once."""
    tree = _tree()
    tree.add(A, 1.0, eager=True, recent=(_key(1), _key(2)))

    assert tree.flush(1.0) == [(A, IHave((_key(1), _key(2))))]
