"""What a generated library costs on a core, from counted instructions: no hardware is needed."""
