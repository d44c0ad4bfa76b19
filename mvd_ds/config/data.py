"""Settings of clips: where they come from, what is cut out, what is masked."""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple

from pydantic import Field, model_validator

from mvd_ds.config.base import Grid, PathText, Positive, Settings, Share
from mvd_ds.config.remote import RemoteSettings


class OwnClip(NamedTuple):
    """A view of the crop and the moment of a clip, with frames of its own; the middles of both are the same."""

    size_px: int
    """Its side, pixels."""
    frames: int
    """Its frames."""
    step: float
    """Time from one of its frames to the next, in that of the clip."""


ClipView = int | OwnClip
"""A view of a clip: its frames at a side in pixels, or frames of the view's own."""


class ClipSettings(Settings):
    """The clip that is cut out of a video. An image is a one-frame clip."""

    frames: Positive = 16
    """T, frames of a clip."""
    stride_frames: Positive = 4
    """Frames from one sampled frame to the next (dense sampling). Source: MVD pretraining, 4. A video too short for the clip
    starts at its first frame and repeats the last one that the stride reaches."""
    stride_seconds: Annotated[float, Field(gt=0)] | None = None
    """In place of ``stride_frames``: time from one sampled frame to the next, whatever a video's frame rate is. 4 frames of 30
    a second are 0.1333."""
    size_px: Positive = 224
    """H = W of the clip, pixels."""
    sampling: Literal["dense", "window", "uniform"] = "dense"
    """dense: consecutive strided frames from a random start; window: spread evenly, both ends included, over a random window
    of frames x stride (MVD's fine-tuning: 16 frames over 64, 64/15 apart; tests of it are dense); uniform: one random frame in
    each of T equal segments (TSN)."""
    crop: Literal["multiscale", "random_resized", "center"] = "multiscale"
    """multiscale: MVD's corner-and-centre crops; random_resized: area ``crop_area``, ratio (3/4, 4/3), as MAE; center: short
    side resized to size_px, then the middle."""
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    """Interpolation of resized crops. Source: bilinear in MVD and VideoMAE, bicubic in MAE."""
    crop_area: tuple[Share, Share] = (0.2, 1.0)
    """Smallest and largest share of the frame of random_resized. Source: MAE (0.2, 1); MVD's fine-tuning (0.08, 1)."""
    antialias: bool = True
    """Antialias training crops when they are resized. Source: MVD's fine-tuning has none."""
    flip: Share = 0.0
    """Probability of a horizontal flip. Source: 0 in MVD and VideoMAE pretraining, 0.5 in MAE."""

    def seen_as(self, view: ClipView) -> ClipSettings:
        """Return the clip that ``view`` shows."""
        if not isinstance(view, OwnClip):
            return self.model_copy(update={"size_px": view})
        seconds = self.stride_seconds and self.stride_seconds * view.step
        strides = {"stride_frames": self.stride_frames * view.step, "stride_seconds": seconds}
        return self.model_copy(update={"size_px": view.size_px, "frames": view.frames, **strides})

    def over(self, other: ClipSettings) -> ClipSettings:
        """Return ``other`` with the settings that were stated here: in a recipe or on the command line, not by default."""
        stated = {key: getattr(self, key) for key in self.model_fields_set}
        if "stride_frames" in stated:  # it would not be looked at beside a stride in seconds
            stated.setdefault("stride_seconds", None)
        return other.model_copy(update=stated)


#: Mean and standard deviation of pixels in [0, 1], by colour. Source: ImageNet, as MAE, VideoMAE and MVD use them.
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class PreprocessingSettings(Settings):
    """The preprocessing of a classifier; it is saved beside its weights, so that no recipe is needed to use it."""

    clip: ClipSettings = ClipSettings()
    """Frames, stride, sampling and size that it was trained on. Crop and flip are those of the training, not of a test."""
    mean: tuple[float, float, float] = IMAGENET_MEAN
    """Mean that is subtracted from pixels in [0, 1], by colour."""
    std: tuple[float, float, float] = IMAGENET_STD
    """Standard deviation that they are then divided by, by colour."""


class SourceSettings(Settings):
    """One of several manifests that are mixed."""

    manifest: PathText
    """Manifest file or folder."""
    root: PathText | None = None
    """Folder that its paths are relative to (None: its own)."""
    weight: Annotated[float, Field(gt=0)] | None = None
    """Its share of the clips, relative to the other weights (None: the number of its videos)."""
    images: Literal["repeated", "image_teachers"] = "repeated"
    """Teachers that learn from its pictures, each a clip that stands still. repeated: all, as of any clip; image_teachers: those
    of ``kind: image`` alone. Then the source holds pictures alone, and a loss of another teacher is the mean over the other
    samples of the step, of all ranks together; in a step of pictures alone it is 0."""


class DataSettings(Settings):
    """The source of the videos and how they are read."""

    manifest: PathText = "data/train.txt"
    """Manifest file (``path label ...`` a line), a folder of videos or images, or tar files of webdataset
    (``shards/{000000..000999}.tar``); files and tars may be addresses, such as ``s3://bucket/train.txt``."""
    root: PathText | None = None
    """Folder or address that manifest paths are relative to (None: the manifest's own folder)."""
    sources: tuple[SourceSettings, ...] = ()
    """Several manifests, mixed by weight, in place of ``manifest`` and ``root``. An epoch has as many clips as all of them
    together; each goes through its own videos round after round."""
    temperature: Annotated[float, Field(gt=0)] = 1.0
    """Shares of ``sources`` are in proportion to weight^(1 / temperature): above 1 nearer to one another, so that small sources
    are seen more often than their size says."""
    reader: Literal["auto", "decord", "pyav", "torchcodec"] = "auto"
    """auto: PyAV, exact on every file and the fastest measured; decord refuses files on which it lies or hangs (edit lists, AV1,
    ...); torchcodec has to be installed, with FFmpeg's shared libraries. Frames are the same bytes from all of them."""
    max_pixels: Positive = 50_000_000
    """Most pixels of a frame or image; larger ones count as broken, before they are decoded. Enough for 8K video and photographs
    of 50 megapixels. Frames of more than 4096 x 2304 pixels are scaled down to that while they are read."""
    clip: ClipSettings = ClipSettings()
    """The clip that is cut out of each video."""
    clips_per_video: Positive = 1
    """R clips cut from one decoded video (repeated sampling). Batches count clips, so R divides the micro batch."""
    workers: Annotated[int, Field(ge=0)] = 8
    """Loader processes per training process (0: decode in the training process)."""
    prefetch_batches: Positive = 4
    """Micro batches kept ready, by all workers together; three more lie in memory, 2.4 MB a clip of 16 x 224 x 224."""
    max_bad_share: Share = 0.05
    """More undecodable videos than this share of those asked for stops the run on all ranks; each counts once (with ``sources``
    each time it is drawn)."""
    classes_by_position: bool = False
    """Take plain numbers of a list for named classes in their order where nothing shows that they belong together."""
    stall_seconds: Annotated[float, Field(gt=0)] = 120.0
    """A worker that is at one video for this long is ended, and the video put in quarantine (with workers only)."""
    remote: RemoteSettings = RemoteSettings()
    """How videos that are not on this machine are fetched."""


BlockScale = Annotated[float, Field(gt=0.0, le=1.0)]


#: Settings that only masks by a score take.
_SCORED_ALONE = (
    *("blocks", "motion", "motion_px", "pick", "keep"),
    *("ranking", "cell", "temperature", "hint_from", "hint_share"),
)


class MaskingSettings(Settings):
    """The tokens that are hidden from the student. True = masked, everywhere."""

    kind: Literal["tube", "random", "multi_block", "attention", "motion", "none"] = "tube"
    """tube: one spatial mask repeated over time; random: over all tokens; multi_block: a union of blocks; attention: by what a
    teacher looks at, drawn on the device from the pass that makes its targets; motion: by what moves in the clip; none: nothing
    is hidden, for objective language."""
    ratio: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.9
    """Share of tokens hidden; the count is int(ratio * tokens of one slot (tube) or of the clip (random)), and of the cells that
    ``ranking`` puts in order (attention, motion)."""
    masks_per_clip: Positive = 1
    """K masks that share one decode and one teacher pass."""
    block_scales: Annotated[tuple[BlockScale, ...], Field(min_length=1)] = (0.15, 0.7)
    """multi_block: share of the frame that a block covers; mask k takes the k-th, in turn. Source: V-JEPA, short and long."""
    block_aspect: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] = (0.75, 1.5)
    """multi_block: height over width of a block, log-uniform between the two. Source: V-JEPA."""
    block_duration: Annotated[float, Field(gt=0, le=1)] = 1.0
    """multi_block: share of the clip that a block lasts. Source: V-JEPA, the whole clip."""
    teacher: str | None = None
    """attention: name under ``teachers`` of the network whose attention is the score of a token."""
    blocks: Annotated[tuple[int, ...], Field(min_length=1)] | Literal["all"] = (-1,)
    """attention: blocks whose attention is averaged; -1 is the last. Source: AttMask and UMT the last, A-CLIP all."""
    motion: Literal["difference", "block_matching"] = "difference"
    """motion: score of a token. difference: mean absolute change of its pixels to the next frame; block_matching: how far its
    patch moved to the neighbouring slot. Neither is optical flow: brightness that changes counts as motion in the one, and
    flat or repeated patterns move to the nearest match in the other."""
    motion_px: Positive = 8
    """block_matching: largest displacement that is looked for, in each direction, pixels; in steps of patch_px / 8."""
    pick: Literal["high", "low", "hint", "multinomial", "warp"] = "high"
    """attention and motion: how cells are picked by their score. high: the highest; low: the lowest; hint: the highest, but for
    some of the very highest, in whose place the next in rank are picked; multinomial: drawn without replacement, each with a
    probability in proportion to its score; warp (motion by block_matching): at random in the middle slot, and in the others
    what moved from there. Source: AttMask (high, low, hint); UMT (multinomial); MGMAE (warp, along RAFT's flow)."""
    keep: Literal["rest", "attended"] = "rest"
    """attention and motion: tokens that stay visible. rest: the picked are hidden, as AttMask and MGMAE; attended: the picked
    stay visible, as UMT (multinomial) and A-CLIP (high, cell 2, blocks all)."""
    ranking: Literal["slot", "tube", "clip"] = "slot"
    """attention and motion: slot: every slot is ranked by itself and hides as many; tube: places are ranked by their mean over
    time, and hidden all the time; clip: all at once, and slots hide different numbers."""
    cell: Positive = 1
    """attention and motion: side, in tokens, of the squares that are hidden or visible as one; their score is the mean. Source:
    A-CLIP, 2."""
    temperature: Annotated[float, Field(gt=0.0)] = 1.0
    """multinomial: probabilities are in proportion to score^(1 / temperature); low ones come near to high. Source: UMT, 1."""
    view_area: tuple[BlockScale, BlockScale] | None = None
    """attention: each mask is of a view of its own: a crop of this share of the student's clip, resized to its size, whose tokens
    are ranked by the attention that the teacher's whole clip has there (None: all masks are of the clip). Source: A-CLIP."""
    hint_from: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.1
    """hint: share of cells, the highest, among which some are left visible. Source: AttMask, 0.1."""
    hint_share: Annotated[float, Field(gt=0.0, le=1.0)] | None = None
    """hint: share of those that are left visible (None: ``ratio``). Source: AttMask, the ratio, which is 0.1 to 0.5 there."""
    decoder: Literal["all", "running_cell", "random"] = "all"
    """Masked tokens that the decoder sees and predicts. all; running_cell: a pattern of 2 x 2 cells that goes round from slot
    to slot, as VideoMAE v2; random: any."""
    decoder_ratio: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.5
    """running_cell and random: share of the masked tokens left out. Source: VideoMAE v2, 0.5."""

    @property
    def is_scored(self) -> bool:
        """Return whether masks are drawn on the device, from scores that only it knows."""
        return self.kind in ("attention", "motion")

    def masked_tokens(self, grid: Grid) -> int:
        """Return M, the number of hidden tokens per mask, on ``grid``."""
        t, h, w = grid
        if self.kind == "none":
            return 0
        if not self.is_scored:
            return t * int(self.ratio * h * w) if self.kind == "tube" else int(self.ratio * t * h * w)
        groups, cells, tokens = self.cells(grid)
        return groups * int(self.ratio * cells) * tokens

    def cells(self, grid: Grid) -> tuple[int, int, int]:
        """Return how many groups of cells are ranked each by itself, the cells of each, and the tokens of a cell.

        Raises:
            ValueError: if the cells do not divide the grid.
        """
        t, h, w = grid
        if h % self.cell or w % self.cell:
            raise ValueError(f"masking.cell {self.cell} does not divide the grid {grid} of tokens")
        places = h * w // self.cell**2
        return {
            "slot": (t, places, self.cell**2),
            "tube": (1, places, t * self.cell**2),
            "clip": (1, t * places, self.cell**2),
        }[self.ranking]

    @property
    def hinted_share(self) -> float:
        """Share of the highest cells that a hint leaves visible."""
        return self.ratio if self.hint_share is None else self.hint_share

    def hinted(self, cells: int) -> tuple[int, int]:
        """Return the number of highest of ``cells`` cells among which a hint is drawn, and the number that it leaves visible."""
        first = int(self.hint_from * cells)
        return first, int(self.hinted_share * first)

    @model_validator(mode="after")
    def _check_scores(self) -> MaskingSettings:
        if self.kind == "attention" and self.teacher is None:
            raise ValueError("masking.kind attention needs masking.teacher, a name under teachers")
        if self.kind != "attention" and self.teacher is not None:
            raise ValueError(f"masking.teacher is for masking.kind attention, not {self.kind}: remove it")
        fields = type(self).model_fields
        odd = [key for key in _SCORED_ALONE if getattr(self, key) != fields[key].default and not self.is_scored]
        if odd:
            raise ValueError(f"masking.{odd[0]} is for masking.kind attention and motion, not {self.kind}: remove it")
        if self.kind == "none" and (self.masks_per_clip > 1 or self.decoder != "all"):
            raise ValueError("masking.kind none hides nothing: leave masks_per_clip at 1, and decoder at all")
        if self.keep == "attended" and self.pick not in ("high", "multinomial"):
            raise ValueError(f"masking.keep attended is for masking.pick high or multinomial, not {self.pick}")
        if self.pick == "warp" and (self.kind, self.motion, self.ranking) != ("motion", "block_matching", "slot"):
            raise ValueError(
                "masking.pick warp needs masking.kind motion, masking.motion block_matching and masking.ranking slot"
            )
        if self.view_area is not None and (self.kind != "attention" or self.view_area[0] > self.view_area[1]):
            raise ValueError("masking.view_area is for masking.kind attention, a smaller share and a larger one: remove it")
        is_repeated = self.is_scored and self.pick in ("high", "low") and self.masks_per_clip > 1
        if is_repeated and self.view_area is None:
            raise ValueError(
                f"masking.pick {self.pick} gives one mask, masks_per_clip {self.masks_per_clip} would be that mask again: choose "
                "hint or multinomial, or view_area"
            )
        return self
