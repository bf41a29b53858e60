"""What sits on accelerators: replica, engine, backends; and the values that reach them."""
