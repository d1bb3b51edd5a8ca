"""mnv3c: MobileNetV3 networks to small, fast, stand-alone int8 C libraries for Arm."""

__version__ = "0.1.0"
