"""Configurations of TRL, Axolotl and LLaMA-Factory, read into a study file: `together.import_study`."""
