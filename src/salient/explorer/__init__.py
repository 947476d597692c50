"""The explorer: a web page that shows the quantization of the served checkpoint."""
