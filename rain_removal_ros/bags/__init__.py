"""Bags (rosbag2: MCAP, SQLite), without ROS: conversion, archives, comparison. Imports no rclpy."""
