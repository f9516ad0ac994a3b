"""Task-model parts that mmseg lacks: backbones of the CamVid teachers and students."""
