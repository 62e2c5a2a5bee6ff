"""Ways to say where the object of an image is, one file each; all fulfill `vitrail.contracts.Localizer`."""
