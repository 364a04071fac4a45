"""Evaluation: confusion matrix, sIoU / uIoU / hIoU / pAcc, sliding-window inference."""
