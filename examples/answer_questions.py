"""Answer questions with the arguments of the pipeline that transformers 5.3 removed.

    python examples/answer_questions.py

The script needs no network: it fine-tunes the embedded encoder on six questions about its own
sentences. For a trained model, use `smp.load_answerer("a folder or Hub name")` instead.
"""

import torch
from datasets import Dataset

from smp import QuestionAnswerer, featurise, load_qa_model
from smp.data.windows import endless_batches, make_loader

PASSAGE = ("Clara Voss designed the bridge over the Lenn. Henrik Dahl, a carpenter from Ostby, "
           "built it. The bridge opened in 1893 and is 140 metres long.")
QUESTIONS = {
    "Who designed the bridge?": "Clara Voss", "Who built the bridge?": "Henrik Dahl",
    "When did the bridge open?": "1893", "How long is the bridge?": "140 metres",
    "What is under the bridge?": "the Lenn", "Where was the carpenter from?": "Ostby",
}


def fine_tune(model, tokenizer, steps=50):
    """Train the last two layers and the head on the questions."""
    rows = Dataset.from_list([
        {"id": question, "question": question, "context": PASSAGE,
         "answers": {"text": [answer], "answer_start": [PASSAGE.index(answer)]}}
        for question, answer in QUESTIONS.items()])
    loader = make_loader(featurise(rows, tokenizer, 96, 32), tokenizer, len(rows), shuffle=True)
    trained = [*model.bert.encoder.layer[-2:].parameters(), *model.qa_outputs.parameters()]
    model.requires_grad_(False)
    for weight in trained:
        weight.requires_grad_(True)
    optimizer = torch.optim.AdamW(trained, lr=1e-3)
    for _, batch in zip(range(steps), endless_batches(loader, 0)):
        batch.pop("row")
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def main():
    """Fine-tune the encoder and print answers in the forms of the pipeline."""
    torch.manual_seed(0)  # of the new head, and of the order of the questions
    model, tokenizer, _ = load_qa_model("all-MiniLM-L6-v2")
    fine_tune(model, tokenizer)
    answerer = QuestionAnswerer(model, tokenizer)
    print(answerer(question="Who built the bridge?", context=PASSAGE))
    print(answerer({"question": "When did the bridge open?", "context": PASSAGE}))
    for question, answer in zip(QUESTIONS, answerer(question=[*QUESTIONS], context=PASSAGE)):
        print(f"{question} {answer['answer']} ({answer['score']:.0%})")
    print(answerer("Who sold it?", PASSAGE, top_k=3, handle_impossible_answer=True))


if __name__ == "__main__":
    main()
