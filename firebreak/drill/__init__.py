"""The drill: a real model, a real service and a whole installation to rehearse an incident with."""
