"""Learning from the review: candidates, which judged parts improve, and their replay before they become recipes."""
