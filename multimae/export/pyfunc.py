"""The code that every exported model brings: MLflow runs this file where the model is saved and where it is loaded."""

import numpy as np
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel

from multimae.export.predictor import load_predictor


class RunModel(PythonModel):
    def load_context(self, context) -> None:
        self.predictor = load_predictor(context.artifacts["config"], context.artifacts["weights"])

    def predict(self, context, model_input: np.ndarray, params=None):  # of several inputs, {name: array}
        return self.predictor(model_input)


set_model(RunModel())
