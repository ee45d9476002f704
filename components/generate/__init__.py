"""The trained models at work, above the evaluation, whose loading of networks it shares."""
