"""What `metalab --help` and `metalab data --help` print, and the words that they are about."""

COMMANDS = ("train", "eval", "compare", "predict", "export", "demo")  # Hydra's; data and runs are their own
VERBS = ("list", "prepare", "check", "show", "clean")  # of metalab data
FLAGS = ("--multirun", "--cfg", "--info", "--help", "--hydra-help", "--config-dir", "--resolve", "--package")


USAGE = """usage: metalab train [group=option ...] [key=value ...]   train and validate, into outputs/train/
       metalab eval run=FOLDER [key=value ...]            test a trained run, into outputs/eval/
       metalab compare run=[FOLDER,FOLDER,...]            runs on the same episodes, into outputs/compare/
       metalab predict run=FOLDER support=FOLDER images=FOLDER   classify your own images, into outputs/predict/
       metalab export run=FOLDER support=FOLDER format=onnx       the adapted net as a file, into outputs/export/
       metalab demo run=FOLDER                            the same on a page in your browser
       metalab runs [FOLDER ...] [key=value ...] [--json]  what runs are doing: state, step, best validation
       metalab data list | prepare NAME | check NAME | show NAME [data.key=value ...] | clean [STORE ...]
       metalab --help | --version

metalab train --help                                       the groups, their options and every setting
metalab train algo=maml data=miniimagenet task.shot=5      one run
metalab train -m seed=1,2,3 algo=maml,protonet             a sweep
metalab train resume=FOLDER                                go on with a run that was stopped
metalab eval run=latest                                    or run=[FOLDER,FOLDER]
metalab data list                                          the data sets, and which are on disk
metalab data check miniimagenet data.root=FOLDER           what it leaks: classes, copies, near copies

TAB completion: eval "$(metalab -sc install=bash)" in bash, and in zsh after `autoload -U compinit bashcompinit;
compinit; bashcompinit`; metalab -sc install=fish | source in fish.
"""

RUNS_USAGE = """usage: metalab runs [FOLDER ...] [key=value ...] [--json]

The runs below the folders, outputs/train where none is given, the one that was written last first: whether it is
running, finished, stopped (resume goes on) or failed (and why), its step, best validation accuracy, age and command.

metalab runs algo=maml,protonet data=omniglot task.shot=1   those with these settings
metalab runs outputs/train/2026-11-27 --json                all of a day, for a program
"""

DATA_USAGE = """usage: metalab data list                       the data sets: classes, images, licence, on disk or not
       metalab data prepare NAME               bring it onto the disk, decoded: every later start is quick
       metalab data check NAME [out=FOLDER]    what it leaks; exit code 1 where a class is in two splits
       metalab data show NAME [what=sheet|episode] [split=test] [out=FILE.png] [task.way=5] [seed=0]
       metalab data show NAME what=embedding [method=pca|tsne] [backbone=... backbone.weights=...]
       metalab data clean                      what the prepared data takes; clean STORE, NAME or all removes it

Each but list and clean takes data.KEY=VALUE, as data.root=/path/to/the/files; all but clean take --config-dir FOLDER
for data sets of your own. METALAB_CACHE=FOLDER before a command is where prepared data lies.
out=FOLDER of check receives leaks.json, with all it found, and near.png, with the pairs that look alike.
"""
