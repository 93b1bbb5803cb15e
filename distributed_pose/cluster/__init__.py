"""Workers, reducers and the engines that run them."""
