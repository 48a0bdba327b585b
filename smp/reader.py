# %% [markdown]
# ## A reader of what is saved
#
# Any model that was saved here answers questions in one line of code: a plain model by its folder
# or Hub name, or a base model and the mask file that makes a task of it.

# %%
from smp.ask import PassageReader

# %%
from smp.models import load_qa_model, load_student

# %%
from smp.task import load_task

# %%
class Reader(PassageReader):
    """A `PassageReader` of a saved model."""

    @classmethod
    def from_pretrained(cls, name, max_length=None, stride=128, precision="fp32"):
        """Of a saved model, a folder or a Hub name; or of (base model, mask file).

        Raises ValueError or FileNotFoundError with one line where there is none, or where it was
        never taught to answer.
        """
        if isinstance(name, tuple):
            model, tokenizer, _ = load_task(*name, max_length)
        else:
            model, tokenizer, taught = load_qa_model(name, max_length=max_length)
            if not taught:  # saved as the masked language model whose head it has, or no reader
                model, tokenizer, _ = load_student(name, None, max_length, "label words")
        return cls(model.eval(), tokenizer, max_length, stride, precision)

