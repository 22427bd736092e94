"""The only room that imports rclpy: the node, its topics, messages, parameters and diagnostics."""
