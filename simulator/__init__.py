"""A site of simulated cameras with a known truth, served over real RTSP."""
