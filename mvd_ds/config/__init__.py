"""The typed tree of settings (a package, because a tree of this size does not fit one screenful of a file).

Defaults <- recipe YAML <- ``key.path=value`` on the command line. Nothing mutates the tree; derived values are
properties. Neither torch nor any room is imported here, so that ``--help`` and validation cost nothing.
"""

from mvd_ds.config.base import ENGINE_FOLDER, PACKAGE_FOLDER, RECIPE_FOLDER, Grid, Settings
from mvd_ds.config.data import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    ClipSettings,
    ClipView,
    DataSettings,
    MaskingSettings,
    OwnClip,
    PreprocessingSettings,
)
from mvd_ds.config.evaluation import (
    EvaluateRecipe,
    FeaturesRecipe,
    ViewSettings,
)
from mvd_ds.config.finetuning import (
    AugmentationSettings,
    ErasingSettings,
    FinetuneRecipe,
    LogitTeacherSettings,
    MixSettings,
    RandAugmentSettings,
    ValidationSettings,
)
from mvd_ds.config.load import (
    differences,
    dump,
    find_engine_config,
    find_recipe,
    leaves,
    load_recipe,
    recipe_names,
    to_yaml,
    validate,
)
from mvd_ds.config.losses import LOG_VARIANCES, LOSS_NAMES, LossMixture, loss_parts, loss_title
from mvd_ds.config.networks.adaptation import AdaptationSettings
from mvd_ds.config.networks.adaptors import AdaptorSettings
from mvd_ds.config.networks.decoder import DecoderSettings
from mvd_ds.config.networks.encoder import ENCODER_SIZES, EncoderSettings, InitSettings, PoolingSettings
from mvd_ds.config.networks.language import LANGUAGE, LanguageSettings, TextSettings, uses_blocks_twice
from mvd_ds.config.networks.prompts import (
    PROMPT_HEADS,
    WORD_HEADS,
    BaseToNewSettings,
    PromptSettings,
)
from mvd_ds.config.networks.prototypes import PrototypeSettings
from mvd_ds.config.optimization import (
    BatchSettings,
    EngineSettings,
    OptimizerSettings,
    RunSettings,
    ScheduleSettings,
)
from mvd_ds.config.probing import DenseSettings, HeadSettings, NeighbourSettings, ProbedModel, ProbeRecipe
from mvd_ds.config.recipes import LearningRecipe, Recipe, TrainingRecipe
from mvd_ds.config.targets import HeadShape, LabelSettings, Output, PixelSettings, TargetCacheSettings, TargetSettings, Tokens
from mvd_ds.config.teachers import ATTENTION, TeacherSettings
from mvd_ds.files import ConfigError
