"""How a classifier is trained: data, backbones, fitting, evaluation, report, recipes."""
