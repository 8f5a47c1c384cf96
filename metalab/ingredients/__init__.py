"""What algorithms are made of, for users to import: metalab.ingredients.metric has distances and class means."""
