"""A whole run of the notebook BERT_SMP with a small model, as one function."""

from transformers import AutoTokenizer, BertConfig, BertForQuestionAnswering, set_seed

from smp.cli.table import table
from smp.cli.train import attach_pruning, train
from smp.data.reading import data_fingerprint, load_squad
from smp.data.windows import featurise
from smp.fast.products import compiled_products
from smp.look.snapshot_writer import run_snapshots
from smp.model.load import load_pretrained
from smp.model.predict import evaluate_answers
from smp.model.save import count_parameters, model_bytes, model_fingerprint, save_model
from smp.model.student import load_student, stock_model
from smp.runs.run import begin_record, finish_record, keep_record, run_checkpoints
from smp.runs.settings import choose_settings
from smp.task.apply import describe_task
from smp.task.mask_file import MASK_FILE, save_masks


def prepare_run(home):
    """Return a function of a results folder, with the steps of the notebook BERT_SMP.

    Each forked child calls it once, because it trains the model in place. Times are recorded as 0.
    `locked` is called when this process has the lock of the run.
    """
    tokenizer = load_pretrained(AutoTokenizer, "all-MiniLM-L6-v2")
    set_seed(0)
    BertForQuestionAnswering(BertConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=32, max_position_embeddings=96)).save_pretrained(home / "tiny")
    tokenizer.save_pretrained(home / "tiny")
    settings = choose_settings(
        "quick", "smp", model=str(home / "tiny"), density=0.2, method="smp-s", epochs=2,
        dropout=0.1, precision="fp32", max_length=96, stride=32, n_mask_snapshots=6)
    model, tokenizer, head = load_student(settings.model, settings.dropout, 96, "trained")
    data = load_squad("synthetic", 48, 0, 8)
    windows = {part: featurise(data[part], tokenizer, 96, 32) for part in ("train", "eval")}
    compiled_products()  # once, not in each child
    begun = begin_record(settings, model_fingerprint(model), data_fingerprint(data["eval"]),
                         data_fingerprint(data["train"]))

    def whole_run(results, locked=lambda: None):
        checkpoints = run_checkpoints(begun, results)
        locked()
        checkpoints.minutes = 0
        set_seed(0)
        pruning = attach_pruning(model, settings)
        run = train(model, windows["train"], tokenizer, settings, pruning, checkpoints=checkpoints,
                    snapshots=run_snapshots(begun, results, 4))
        masks, layers = pruning.masks.numpy(), pruning.masks.counts()
        pruning.masks.merge()
        scores, _ = evaluate_answers(model, data["eval"], windows["eval"], tokenizer, "fp32")
        scores["ms_per_question"] = 0.0
        folder = save_model(stock_model(model, settings.model), tokenizer,
                            results / "models" / begun["name"])
        record = finish_record(
            begun, run | {"seconds": 0.0}, scores, count_parameters(model), layers, head=head,
            bytes_model=model_bytes(folder), n_train=48, n_eval=8,
            bytes_mask_file=save_masks(masks, folder / MASK_FILE, **describe_task(
                begun, model, settings.model, None, head, scores, 8)))
        keep_record(record, results, folder, checkpoints)
        table(results)

    return whole_run
