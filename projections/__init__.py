"""Read models: one file a question (its table, its fold, its queries), and the projector that keeps them."""
