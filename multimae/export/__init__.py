"""The final weights of a run as a model that others load: MLflow's pyfunc, images in, predictions out.

`Predictor` is the model, and needs no MLflow. `save` writes it as a folder, `log` gives it to the run's MLflow run,
`register` gives it a name and a version there. A model is code of this library (`pyfunc.py`), `weights.safetensors` and
`config.yaml`: no pickle.

Imports neither torch nor mlflow until one of them is called.
"""

from .command import main
from .models import FinalModel, log, register, save
