import jaxtyping

# The shapes that the model's functions state are checked in every test.
jaxtyping.install_import_hook(["multimae.model", "multimae.masking", "multimae.losses"], "beartype.beartype")
