"""Settings of a run: values, relations between them, YAML, and the options of `multimae run`, `bench` and `sync`."""

import os
from collections.abc import Callable
from pathlib import Path

from . import Case

RUN = "multimae run smoke/pretrain --no-track"
CLASSIFY = "multimae run smoke/classify --no-track"
FEW = f"{CLASSIFY} --set data.train_samples=32 --set data.eval_samples=8 --set data.render_size=16"
SEGMENT = "multimae run smoke/segment --no-track"
TOKEN, POSITIONS = "encoder.global_token", "encoder.tokens.rgb.positions"
STUDY = "python sweeps/alpha_ablation.py --dry-run"


def file(name: str, content: str | bytes) -> Callable[[Path], None]:
    """Prepares a file."""
    data = content.encode() if isinstance(content, str) else content
    return lambda folder: (folder / name).write_bytes(data)


def weights(content: bytes) -> Callable[[Path], None]:
    return file("x.pth", content)


def tensors(change: Callable[[dict], object]) -> Callable[[Path], None]:
    """Prepares the weights of an encoder, changed."""

    def prepare(folder: Path) -> None:
        from safetensors.torch import save_file

        from multimae.config import recipe
        from multimae.model.encoder import Encoder

        encoder = Encoder(recipe("classify", "smoke").model, ("rgb",))
        state = {f"encoder.{name}": value.clone() for name, value in encoder.state_dict().items()}
        change(state)
        save_file(state, folder / "x.safetensors")

    return prepare


def pickled(folder: Path) -> None:
    import torch

    class Evil:
        def __reduce__(self):
            return (os.system, ("touch harmed",))

    torch.save({"model": Evil()}, folder / "x.pth")


def zipped(folder: Path) -> None:
    import zipfile

    with zipfile.ZipFile(folder / "x.pth", "w") as archive:
        archive.writestr("hello.txt", "hello")


def huge(folder: Path) -> None:
    (folder / "mine.yaml").touch()
    os.truncate(folder / "mine.yaml", 10**8)


def setting(given: str, words: str, shown: str, command: str = RUN) -> Case:
    return Case(given, f"{command} --set {words}", shown)


def yaml(given: str, content: str | bytes, shown: str) -> Case:
    return Case(given, "multimae run mine.yaml --no-track", shown, prepare=file("mine.yaml", content))


def init(given: str, prepare: Callable[[Path], None], shown: str, name: str = "x.pth") -> Case:
    return Case(given, f"{FEW} --set init=official:x --weights x={name}", shown, prepare=prepare)


VALUES = [
    setting("a yes for a number", "epochs=true", "epochs: expected a number, found True"),
    setting("a word for a number", "epochs=many", "epochs: expected a number, found 'many'"),
    setting("digits of another script", "epochs=٣", "epochs: expected a number"),
    setting("a number in base 60", "epochs=1:30", "epochs: expected a number, found '1:30'"),
    setting("a date for a number", "epochs=2024-01-02", "epochs: expected a number, found '2024-01-02'"),
    setting("no value", "epochs=", "epochs: .*found None"),
    setting("infinitely many epochs", "epochs=.inf", "epochs: .*finite"),
    setting("epochs that are no number", "epochs=.nan", "epochs: .*finite"),
    setting("an infinite warm-up", "optimizer.warmup_epochs=.inf", "warmup_epochs: .*finite"),
    setting("an infinite weight decay", "optimizer.weight_decay=.inf", "weight_decay: .*finite"),
    setting("an infinite learning rate", "optimizer.base_lr=.inf", "base_lr: .*finite"),
    setting("an infinite clip", "optimizer.clip_grad=.inf", "clip_grad: .*finite"),
    setting("an infinite crop", "augmentation.crop_scale=[.inf,.inf]", "crop_scale.*finite"),
    setting("an infinite mixup", "augmentation.mixup=.inf", "mixup: .*finite", CLASSIFY),
    setting("an infinite batch", "batch_size=.inf", "batch_size: .*finite"),
    setting("an alpha that is no number", "masking.alpha=.nan", "alpha: .*greater than 0, found nan"),
    setting("a number beyond floats", "masking.alpha=1e999", "too large; infinity is written .inf"),
    setting("a seed of 27 digits", "seed=100000000000000000000000000", "seed: expected a number below 2"),
    setting("a seed that repeats another", "seed=4294967296", "seed: .*less than 4294967296"),
    setting("a negative seed", "seed=-1", "seed: .*greater than or equal to 0"),
    setting("half a seed", "seed=1.5", "seed: .*found 1.5"),
    setting("5,000 digits", "seed=" + "9" * 5000, "seed: expected a number.*5,002 characters"),
    setting("a key within a value", "seed.x=3", "'seed.x': seed is a value, not a section; write seed=VALUE"),
    setting(
        "a value for a section", "masking=3", "masking is a section, chosen by its kind .dirichlet, none.; found 3"
    ),
    setting("a section left empty", "masking=", "masking is a section"),
    setting("no key", "=3", "key=value"),
    setting("a key that ends in a dot", "masking.=3", "unknown key 'masking.'"),
    setting("a setting twice", "epochs=3 --set epochs=4", "'epochs' is given twice"),
    setting("another task", "task=segment", "task: this is pretrain"),
    setting("a task that is a list", "task=[a]", "task: this is pretrain"),
    setting("a long value", "data.name=" + "x" * 20_000, "data.name: .*20,002 characters"),
    setting("a data set by its path", "data.name=../scenes", "data.name: expected a name: not a path"),
    setting("a data set without a name", "data.name=", "data.name: "),
    setting("a name of two lines", r"""'data.name="a\nb"'""", "data.name: expected printable"),
    setting("a million pixels", "model.image_size=1000000", "image_size: .*65536"),
    setting("more pixels than a machine", "model.image_size=40000", "tokens are more than the 20,000 .*max_tokens"),
    setting("a million wide", "model.dim=1000000", "dim: .*65536"),
    setting("more parameters than a machine", "model.dim=65536", "parameters are more than .*max_parameters"),
    setting("a million blocks", "model.depth=1000000", "depth: .*1000"),
    setting("a billion images a step", "batch_size=1000000000", "batch_size: .*1000000"),
    setting("more images a step than there are", "batch_size=5000", "batch_size: 5000 is more than the 32", FEW),
    setting("10^10 evaluations", "eval_every_epochs=1e-9", "evaluations; choose a larger"),
    setting("a list for a number", "epochs=[3]", r"epochs: .*found \[3\]"),
    setting("a word for a list", "inputs=rgb", "inputs: .*tuple, found 'rgb'"),
    setting("an input twice", "inputs=[rgb,rgb]", "inputs: expected one or more of .*each once"),
    setting("two sources of one modality", "inputs=[depth,pseudo_depth]", "are two sources of one modality, depth; gi"),
    setting("a target as an input", "inputs=[rgb,semseg]", r"is predicted.* set inputs=\[rgb,pseudo_semseg\]", SEGMENT),
    setting("no inputs", "inputs=[]", "inputs: expected one or more"),
]
RELATIONS = [
    setting("a crop larger than the image", "augmentation.crop_scale=[2,3]", "crop_scale: .*from 0.001 to 1"),
    setting("a crop's ends exchanged", "augmentation.crop_scale=[0.9,0.2]", "crop_scale: .*the smaller first"),
    setting("a shape's ends exchanged", "augmentation.crop_ratio=[2,0.5]", "crop_ratio: .*the smaller first"),
    setting("a crop of three numbers", "augmentation.crop_scale=[0.1,0.2,0.3]", "crop_scale: .*at most 2"),
    setting("a jitter of nothing", "augmentation.jitter_scale=[0,1]", "jitter_scale: .*from 0.01 to 10", SEGMENT),
    setting("a jitter a thousand times", "augmentation.jitter_scale=[1,1000]", "jitter_scale: .*to 10", SEGMENT),
    setting("an evaluation smaller than the crop", "eval_resize=0.5", "eval_resize: .*equal to 1", CLASSIFY),
    setting("no notation of timm", "augmentation.rand_augment=nonsense", "rand-m9-mstd0.5-inc1", CLASSIFY),
    setting("half a notation of timm", "augmentation.rand_augment=rand-m9-x3", "timm's notation", CLASSIFY),
    setting("RandAugment beside depth", "inputs=[rgb,depth] --set augmentation.rand_augment=rand-m9",
            "shears and shifts photographs alone", CLASSIFY),
    setting("mixup of class maps", "inputs=[semseg] --set augmentation.mixup=1", "cannot be mixed", CLASSIFY),
    setting("mixup of an odd batch", "batch_size=31 --set augmentation.mixup=1", "choose an even one", CLASSIFY),
    setting("a mixup that draws NaN", "augmentation.mixup=1e-320", "mixup: .*0.001", CLASSIFY),
    setting("nothing but smoothing", "augmentation.label_smoothing=1", "label_smoothing: .*less than 1", CLASSIFY),
    setting("every path dropped", "drop_path=1", "drop_path: .*less than 1", CLASSIFY),
    setting("one class", "classes=1", "classes: .*equal to 2", CLASSIFY),
    setting("one segment class", "classes=1", "classes: .*equal to 2", SEGMENT),
    setting("more classes than 8 bits", "classes=300", "classes: .*255", SEGMENT),
    setting("255 classes beside unlabelled ones", "classes=255 --set zero_is_unlabelled=true", "254 at most", SEGMENT),
    setting("300 classes of the semseg input", "model.semseg_classes=300", "semseg_classes: .*255"),
    setting("a head that does not divide", "head.dim=510", "head.dim 510 is not a multiple of 4", SEGMENT),
    setting("betas of one", "optimizer.betas=[1,1]", "betas.*less than 1"),
    setting("betas exchanged", "optimizer.betas=[0.95,0.9]", "betas: expected that of the mean first"),
    setting("a decay of all weights", "optimizer.weight_decay=1000", "takes more than all of a weight"),
    setting("no decay per layer", "optimizer.layer_decay=0", "layer_decay: .*greater than 0", CLASSIFY),
    setting("heads that do not divide", "model.heads=5", "dim 96 must be a multiple of heads 5"),
    setting("a decoder of 66", "decoder.dim=66", "dim 66 must be a multiple"),
    setting("all tokens visible", "masking.visible_tokens=48", "must be less than half of the 48 tokens"),
    setting("self-attention to what is no input", "inputs=[rgb] --set masking.visible_tokens=4 "
            "--set decoder.kind=self_attention", "can only predict its inputs"),
]  # fmt: skip
YAML = [
    yaml("a task that is a list", "task: [a]", r"task: expected one of .*found \['a'\]"),
    yaml("a task that is a mapping", "task: {a: b}", "task: expected one of"),
    yaml("no task", "epochs: 3", "task: expected one of .*found None"),
    yaml("an empty file", "", "expected a mapping of settings, found nothing"),
    yaml("a key twice", "task: pretrain\nepochs: 3\nepochs: 4", "line 3: the key 'epochs' stands twice"),
    yaml("a key twice in a section", "task: pretrain\nmodel: {dim: 64, dim: 128}", "line 2: the key 'dim' stands"),
    yaml("an indent by a tab", "task: pretrain\nmodel:\n\tdim: 64", "line 3: .*spaces, not tabs"),
    yaml("a billion laughs", "a: &a [x, x]\nb: &b [*a, *a]\ntask: *b", "line 2: anchors .*are not read here"),
    yaml("a list within itself", "task: &a [*a]", "anchors"),
    yaml("a merged section", "x: &x {a: 1}\ntask: pretrain\nmodel:\n  <<: *x", "anchors"),
    yaml("a tag of Python", "task: !!python/object/apply:os.system [ls]", "tags .*are not read here"),
    yaml("a tag of a date", "task: !!timestamp x", "tags"),
    yaml("a thousand brackets", "task: " + "[" * 5000, "more than 20 sections within each other"),
    yaml("a list for a key", "? [a, b]\n: 3", "a key is a word"),
    yaml("a number for a key", "task: pretrain\n3: 4", "unknown key '3'"),
    yaml("Latin-1", "task: prétrain".encode("latin-1"), "byte 8 is not UTF-8"),
    yaml("UTF-16", "task: pretrain".encode("utf-16"), "not UTF-8"),
    yaml("a byte of zero", b"task: pre\0train", "not printable"),
    yaml("two documents", "task: pretrain\n---\ntask: classify", "line 2: but found another document"),
    Case("100 MB", "multimae run mine.yaml --no-track", "100,000,000 bytes; expected .* 100,000 at most", prepare=huge),
    yaml("an octal number", "task: pretrain\nseed: 0x10", "seed: expected a number, found '0x10'"),
    yaml("a bracket that stays open", "task: [pretrain", "mine.yaml is not valid YAML: line 1"),
    Case("a pipe for a recipe", "multimae run pipe --no-track", "pipe is no regular file",
         prepare=lambda folder: os.mkfifo(folder / "pipe")),
    Case("a link to itself", "multimae run loop --no-track", "loop cannot be read: Too many levels",
         prepare=lambda folder: (folder / "loop").symlink_to("loop")),
    Case("a name of 5,000 letters", f"multimae run {'x' * 5000} --no-track", "cannot be read: File name too long"),
    Case("a file below a file", "multimae run file/x --no-track", "Not a directory", prepare=file("file", "")),
    Case("a recipe misspelt", "multimae run smoke/pretrian --no-track", "did you mean 'smoke/pretrain'"),
    Case("a byte order mark", "multimae run mine.yaml --no-track --set epochs=0", "mine.yaml: epochs: .*greater than 0",
         prepare=file("mine.yaml", "\ufefftask: pretrain\nepochs: 1e3")),
]  # fmt: skip
WEIGHTS = [
    init("a text file for weights", weights(b"these are no weights\n" * 50), "x.pth: .*it is no checkpoint"),
    init("an empty file for weights", weights(b""), "x.pth: .*it is no checkpoint"),
    init("a folder for weights", lambda folder: (folder / "x.pth").mkdir(), "there is no file x.pth"),
    init("a pipe for weights", lambda folder: os.mkfifo(folder / "x.pth"), "there is no file x.pth"),
    init("half a safetensors", weights(b"\x40\0\0\0\0\0\0\0{"), "x.pth: expected a checkpoint"),
    init("a zip of something else", zipped, "x.pth: expected a checkpoint"),
    init("half a pickle", weights(b"\x80\x02}q"), "x.pth: "),
    init("a pickle that runs code", pickled, "refused, because reading it would run code"),
    init("weights with NaN", tensors(lambda s: s["encoder.blocks.1.mlp.fc1.bias"].fill_(float("nan"))),
         "expected finite floating-point .*blocks.1.mlp.fc1.bias", "x.safetensors"),
    init("weights with infinity", tensors(lambda s: s[TOKEN].fill_(float("inf"))),
         "expected finite floating-point .*global_token", "x.safetensors"),
    init("whole numbers for weights", tensors(lambda s: s.update({TOKEN: s[TOKEN].long()})),
         "expected finite floating-point .*global_token", "x.safetensors"),
    init("weights of another shape", tensors(lambda s: s.update({TOKEN: s[TOKEN][..., :64].clone()})),
         r"global_token: expected \(1, 1, 96\), found \(1, 1, 64\)", "x.safetensors"),
    init("positions of another shape", tensors(lambda s: s.update({POSITIONS: s[TOKEN].clone()})),
         "tokens.rgb.positions: expected", "x.safetensors"),
    init("weights of a shallower model", tensors(lambda s: [s.pop(k) for k in list(s) if "blocks.1." in k]),
         "missing keys: encoder.blocks.1", "x.safetensors"),
    Case("a name that timm does not know", f"{FEW} --set init=timm:vit_bse_patch16_224.mae",
         "did you mean 'vit_base_patch16_224.mae'.*--weights vit_bse_patch16_224.mae=FILE"),
    Case("a tag that timm does not know", f"{FEW} --set init=timm:vit_base_patch16_224.mea", "Invalid pretrained tag"),
    Case("a model that is no ViT", f"{FEW} --set init=timm:resnet18.a1_in1k", "is a ResNet, expected a plain ViT"),
    Case("a source without a name", f"{CLASSIFY} --set init=official:", "init: "),
    Case("weights twice", f"{CLASSIFY} --weights x=a --weights x=b", "--weights: 'x' is given twice"),
    Case("weights without a file", f"{CLASSIFY} --weights x=", "--weights: expected NAME=FILE, found 'x='"),
]  # fmt: skip
OPTIONS = [
    Case("run folders at the root", f"{RUN} --runs /", "runs: expected a folder .*not the root"),
    Case("run folders nowhere", f"{RUN} --runs ''", "runs: expected a path"),
    Case("a file for run folders", f"{RUN} --runs file", "file cannot hold run folders", prepare=file("file", "")),
    Case("a folder that --runtime names", f"{RUN} --runtime runs=x", "--runtime runs: has an option of its own"),
    Case("a negative number of workers", f"{RUN} --runtime workers=-1", "workers: .*equal to 0"),
    Case("a billion workers", f"{RUN} --runtime workers=1000000000", "workers: .*1024"),
    Case("no threads", f"{RUN} --runtime threads=0", "threads: .*equal to 1"),
    Case("an infinite time", f"{RUN} --runtime timeout_minutes=.inf", "timeout_minutes: .*finite"),
    Case("a time beyond Python's", f"{RUN} --runtime timeout_minutes=1e300", "timeout_minutes: .*1000000"),
    Case("a device of another maker", f"{RUN} --runtime device=tpu", "device: .*'auto', 'cpu' or 'cuda'"),
    Case("a password that is no YAML", f"{RUN} --runtime 'tracking_uri=[http://a:x@b'", "'tracking_uri=...' is not"),
    Case("a data set twice", "multimae run paper/pretrain --no-track --data imagenet=x --data imagenet=y", "--data: 'imagenet' lies in one folder"),
    Case("no turns", "python -m multimae.bench step --turns 0", "--turns: expected a whole number from 1 to 10000"),
    Case("a negative batch", "python -m multimae.bench step --batch -1", "--batch: expected"),
    Case("half a batch", "python -m multimae.bench step --batch 1.5", "--batch: expected .*'1.5'"),
    Case("a batch of memory", "python -m multimae.bench step --batch 100000000", "--batch: expected"),
    Case("a consumer of steps", "python -m multimae.bench step --consume 9", "--consume: of `multimae bench data`"),
    Case("no threads of the benchmark", "python -m multimae.bench step --threads 0", "--threads: expected"),
    Case("no batches", "python -m multimae.bench memory --batches", "--batches: expected at least one"),
    Case("a device that is not there", "python -m multimae.bench step --device cuda:99", "cuda:99: torch sees"),
    Case("an unknown device", "python -m multimae.bench step --device gpu", "--device: expected cpu, cuda"),
    Case("memory of a CPU", "python -m multimae.bench memory --device cpu", "on a CUDA device only"),
    Case("a run that is not there", "multimae sync 0123456789 --runs runs", "no run '0123456789' has begun in runs",
         prepare=lambda folder: (folder / "runs").mkdir()),
    Case("a folder that is not there", "multimae sync --runs nowhere", "there is no folder nowhere"),
]  # fmt: skip
STUDIES = [
    Case("what the rows vary", f"{STUDY} --set pretrain.masking.alpha=1",
         "pretrain.masking.alpha is what the rows vary .alpha=0.2: 0.2, alpha=0.5: 0.5"),
    Case("what the rows vary, by its section", f"{STUDY} --set 'pretrain.masking={{alpha: 1}}'", "alpha is what the"),
    Case("what the rows vary, switched off", f"{STUDY} --set pretrain.masking.kind=none",
         "alpha=0.2 and alpha=0.5 would be one run under two names"),
    Case("one start for all rows", f"{STUDY} --set classify.init=scratch", "classify.init is what the rows vary"),
    Case("a seed twice", f"{STUDY} --seed 1 --set pretrain.seed=2", "both say the seed"),
    Case("a seed below zero", f"{STUDY} --seed -1", "seed: .*equal to 0"),
    Case("a seed of 27 digits for all", f"{STUDY} --seed 100000000000000000000000000", "seed: expected a number below"),
    Case("a setting of a stage twice", f"{STUDY} --set pretrain.epochs=1 --set pretrain.epochs=2", "given twice"),
    Case("another model for a transfer", f"{STUDY} --set classify.model.heads=8",
         "alpha=0.2 classify: model.heads is 8, but .* was pre-trained with 4"),
    Case("a scale that is none", f"{STUDY} --scale huge", "unknown scale 'huge'"),
    Case("a row without a name", f"{STUDY} --only ''", "unknown row ''"),
    Case("no jobs", "python sweeps/alpha_ablation.py --jobs 0", "--jobs: expected 1 or more"),
    Case("a billion jobs", f"{STUDY} --jobs 1000000000", "Would run 14 runs", code=0),
    Case("watching nothing", f"{STUDY} --watch", "--watch goes with --status"),
    Case("a format of no table", f"{STUDY} --format latex", "--format goes with --table"),
    Case("a format that is none", "python sweeps/alpha_ablation.py --table --format pdf", "invalid choice: 'pdf'"),
    Case("a retry of a look", "python sweeps/alpha_ablation.py --status --retry-failed", "--retry-failed runs again"),
    Case("a retry of a stop", "python sweeps/alpha_ablation.py --cancel --retry-failed", "--retry-failed runs again"),
    Case("a study's file for run folders", "python sweeps/alpha_ablation.py --status --runs file", "file is a file",
         prepare=file("file", "")),
    Case("a study at the root", f"{STUDY} --runs /", "runs: expected a folder"),
    Case("a study nowhere", f"{STUDY} --runs ''", "--runs: expected a folder"),
    Case("too large a model for a stage", f"{STUDY} --set pretrain.model.image_size=4000", "tokens are more"),
    Case("epochs within the warm-up", f"{STUDY} --set pretrain.epochs=0.5",
         "note: pretrain: optimizer.warmup_epochs 0.5 leaves nothing of epochs 0.5", code=0),
    Case("a warm-up from above", f"{STUDY} --set pretrain.optimizer.base_lr=1e-9",
         "note: pretrain: optimizer.warmup_lr 1e-06 is above the learning rate 1e-09", code=0),
    Case("a base batch of a billion", f"{STUDY} --set pretrain.optimizer.base_batch=1000000000",
         "note: pretrain: optimizer.warmup_lr 1e-06 is above", code=0),
    Case("a section changed, the rest kept", f"{STUDY} --set 'segment.model={{semseg_unlabelled: true}}'", "Would run 14",
         code=0),
]  # fmt: skip
CASES = [*VALUES, *RELATIONS, *YAML, *WEIGHTS, *OPTIONS, *STUDIES]
