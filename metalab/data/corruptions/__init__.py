"""eval.corrupt: the common corruptions of Hendrycks & Dietterich (2019), of batches of images, on any device."""
