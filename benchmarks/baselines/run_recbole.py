"""Trains one model of RecBole and writes ranked lists; runs in an environment of its own.

`benchmarks.baselines.ranked_lists` starts it. It knows nothing of the project but two files: atomic
files in, lists out. Scoring is not its business.
"""

import argparse
import json
import os
import sys
import tempfile

os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] = "1"

import numpy as np
import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.utils import get_model, get_trainer, init_seed

# Models that read the attributes of items.
_WITH_ATTRIBUTES = ("FDSA", "S3Rec")


def settings(options: argparse.Namespace, checkpoints: str) -> dict:
    """RecBole's configuration: leave-one-out in time order, full ranking, softmax loss."""
    columns = {"inter": ["user_id", "item_id", "timestamp"]}
    if options.model in _WITH_ATTRIBUTES:
        columns["item"] = ["item_id", "class"]
    return {
        "data_path": os.path.dirname(options.atomic),
        "checkpoint_dir": checkpoints,
        "load_col": columns,
        "eval_args": {
            "split": {"LS": "valid_and_test"},
            "group_by": "user",
            "order": "TO",
            "mode": "full",
        },
        "train_neg_sample_args": None,
        "MAX_ITEM_LIST_LENGTH": options.max_history,
        "epochs": options.epochs,
        "metrics": ["NDCG", "Recall"],
        "topk": [10],
        "valid_metric": "NDCG@10",
        "seed": options.seed,
        "reproducibility": True,
        "use_gpu": torch.cuda.is_available(),
        "show_progress": False,
        "train_batch_size": options.batch_size,
        "eval_batch_size": options.batch_size,
    }


def trained(options: argparse.Namespace, checkpoints: str):
    """The model with the best epoch's parameters by validation NDCG@10, and its test batches."""
    stages = [{}]
    if options.model == "S3Rec":
        path = os.path.join(
            checkpoints, f"S3Rec-{os.path.basename(options.atomic)}-{options.pretrain_epochs}.pth"
        )
        pretraining = {
            "train_stage": "pretrain",
            "pretrain_epochs": options.pretrain_epochs,
            "save_step": options.pretrain_epochs,
        }
        stages = [pretraining, {"train_stage": "finetune", "pre_model_path": path}]
    for stage in stages:
        changes = settings(options, checkpoints) | stage
        config = Config(
            model=options.model, dataset=os.path.basename(options.atomic), config_dict=changes
        )
        init_seed(config["seed"], config["reproducibility"])
        dataset = create_dataset(config)
        train_data, valid_data, test_data = data_preparation(config, dataset)
        model_class = get_model(config["model"])
        # This imports all models, one of which has torch look for NaN behind every operation,
        # which takes long and changes no number. Only after the import can it be undone.
        torch.autograd.set_detect_anomaly(False)
        model = model_class(config, train_data.dataset).to(config["device"])
        trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, model)
        best, _ = trainer.fit(train_data, valid_data, verbose=True, show_progress=False)
    state = torch.load(trainer.saved_model_file, map_location=config["device"])
    model.load_state_dict(state["state_dict"])
    facts = {"best_epoch": state["epoch"] + 1, "validation_ndcg@10": float(best)}
    return model, dataset, test_data, facts


@torch.no_grad()
def ranked(model, dataset, test_data, num_results: int) -> dict[str, np.ndarray]:
    """The best items of every user of the test split, history items included, in our numbers."""
    model.eval()
    user_rows, item_numbers, scores = [], [], []
    for interaction, *_ in test_data:
        scores_BN = model.full_sort_predict(interaction.to(model.device))
        scores_BN = scores_BN.view(len(interaction), -1)
        scores_BN[:, 0] = -np.inf
        best = torch.topk(scores_BN, min(num_results, dataset.item_num - 1))
        users = dataset.id2token("user_id", interaction["user_id"].cpu().numpy())
        user_rows.append(users.astype(np.int64))
        item_numbers.append(
            dataset.id2token("item_id", best.indices.cpu().numpy()).astype(np.int32)
        )
        scores.append(best.values.cpu().numpy().astype(np.float32))
    rows = np.concatenate(user_rows)
    order = np.argsort(rows)
    return {
        "user_rows": rows[order],
        "item_numbers": np.concatenate(item_numbers)[order],
        "scores": np.concatenate(scores)[order],
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--atomic", required=True, help="folder of atomic files, FOLDER/NAME")
    parser.add_argument("--out", required=True, help="npz file")
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--pretrain_epochs", type=int, required=True, help="of S3Rec")
    parser.add_argument("--batch_size", type=int, required=True)
    parser.add_argument("--max_history", type=int, required=True)
    parser.add_argument("--num_results", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    options = parser.parse_args()
    # RecBole would read the command line for itself.
    sys.argv = sys.argv[:1]
    torch.set_num_threads(options.threads)
    # Adam's moments of rows that no batch touches fall below 1e-38 after some hundred steps, where
    # processors are slow.
    torch.set_flush_denormal(True)
    with tempfile.TemporaryDirectory() as checkpoints:
        model, dataset, test_data, facts = trained(options, checkpoints)
        lists = ranked(model, dataset, test_data, options.num_results)
    facts["parameters"] = sum(parameter.numel() for parameter in model.parameters())
    with open(options.out, "wb") as file:
        np.savez(file, facts=np.frombuffer(json.dumps(facts).encode(), np.uint8), **lists)


if __name__ == "__main__":
    main()
