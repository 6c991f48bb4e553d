"""Whether intervals hold on people whom neither the model nor the calibration has seen."""
