"""Files in, rain-free files out: images and video. Knows the runtime by its interface, and no ROS."""
