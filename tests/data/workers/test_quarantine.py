"""The quarantine: which videos it bars, where in the stream, and from which step on."""

from __future__ import annotations

import json
from typing import Any

from mvd_ds.data.workers.quarantine import Quarantine


def test_a_new_entry_bars_its_own_place_only() -> None:
    quarantine = Quarantine(clips_per_step=4, lookahead_steps=3)
    quarantine.add(position=9, video=5, path="a.mp4", reason="gone")
    assert quarantine.barred(range(8, 12)).reason(9, 5) == "gone"
    assert quarantine.barred(range(8, 12)).reason(8, 5) is None
    assert quarantine.barred(range(8, 12)).reason(9, 6) is None
    assert quarantine.barred(range(400, 404)).reason(401, 5) is None


def test_all_ranks_bar_it_from_the_step_they_agreed_on() -> None:
    ranks = [Quarantine(4, 3), Quarantine(4, 3)]
    ranks[0].add(9, 5, "a.mp4", "gone")
    ranks[1].add(6, 7, "b.mp4", "stuck")
    new = [[entry for entry in rank.entries if entry.from_step is None] for rank in ranks]
    for rank in ranks:
        rank.agree(10, lambda mine: new)
    assert ranks[0].state() == ranks[1].state()
    assert [entry.video for entry in ranks[0].entries] == [7, 5]
    for rank in ranks:
        assert rank.barred(range(13 * 4, 14 * 4)).everywhere == {5: "gone", 7: "stuck"}
        assert rank.barred(range(12 * 4, 13 * 4)).everywhere == {}
        assert rank.barred(range(8, 12)).reason(9, 5) == "gone", "its own place stays barred when the step is done again"


def test_the_state_is_json_and_comes_back_whole() -> None:
    one, other = Quarantine(4, 3), Quarantine(4, 8)
    one.add(9, 5, "a.mp4", "gone")
    one.agree(10, lambda mine: [mine])
    other.restore(json.loads(json.dumps(one.state())))
    other.agree(11, lambda mine: [mine])
    assert other.entries == one.entries and other.entries[0].from_step == 13


def test_evaluation_has_no_steps() -> None:
    quarantine = Quarantine()
    quarantine.add(0, 5, "a.mp4", "gone")
    assert quarantine.barred([0, 1]).reason(0, 5) == "gone"
    assert quarantine.barred([1, 2]).reason(1, 5) is None


class _Videos:
    def __init__(self, **stamps: str) -> None:
        self._stamps = stamps

    def __len__(self) -> int:
        return len(self._stamps)

    def path(self, index: int) -> str:
        return f"/data/{list(self._stamps)[index]}"

    def stamp(self, index: int) -> str:
        return list(self._stamps.values())[index]


def _state(videos: _Videos, video: int) -> list[dict[str, Any]]:
    quarantine = Quarantine(4, 3, videos)
    quarantine.add(9, video, videos.path(video), "gone")
    quarantine.agree(0, lambda mine: [mine])
    return json.loads(json.dumps(quarantine.state()))  # type: ignore[no-any-return]


def _barred(state: list[dict[str, Any]], videos: _Videos) -> dict[int, str]:
    quarantine = Quarantine(4, 3, videos)
    quarantine.restore(state)
    again = Quarantine(4, 3, videos)
    again.restore(json.loads(json.dumps(quarantine.state())))
    assert again.entries == quarantine.entries
    return quarantine.barred(range(400, 404)).everywhere


def test_an_edited_manifest_bars_the_guilty_video_not_its_successor() -> None:
    state = _state(_Videos(a="1", b="2", c="3", d="4"), video=2)
    assert _barred(state, _Videos(a="1", b="2", c="3", d="4")) == {2: "gone"}
    assert _barred(state, _Videos(a="1", c="3", d="4")) == {1: "gone"}
    assert _barred(state, _Videos(a="1", b="2", d="4")) == {}


def test_a_replaced_file_is_tried_again() -> None:
    state = _state(_Videos(a="1", b="2"), video=1)
    assert _barred(state, _Videos(a="1", b="other")) == {}


def test_a_moved_folder_is_found_by_name_and_content() -> None:
    state = _state(_Videos(a="1", b="2"), video=1)
    state[0]["path"] = "/before/b"
    assert _barred(state, _Videos(x="9", a="1", b="2")) == {2: "gone"}
    assert _barred(state, _Videos(a="1", b="other")) == {}


def test_states_of_earlier_versions_load_and_are_found_by_path() -> None:
    state = _state(_Videos(a="1", b="2"), video=1)
    del state[0]["stamp"]
    assert _barred(state, _Videos(b="2", a="1")) == {0: "gone"}
    assert _barred(state, _Videos(a="1", c="2")) == {}
