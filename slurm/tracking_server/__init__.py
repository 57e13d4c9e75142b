"""A group's MLflow server on PostgreSQL, in one folder: `python -m slurm.tracking_server FOLDER` (--help teaches)."""
