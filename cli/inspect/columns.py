"""What the columns of the measured report mean."""

EXPLAINED = """\
cost      multiplications of the update, per token or position, in those of the layer itself
|dW|      Frobenius norm of the update, alpha included
top-K     share of all |dW| that its K = rank^2 largest entries hold
cosine    of the two updates: 1 the same direction, 0 none in common, -1 opposite
up, down  overlap of what the updates write and read: mean squared cosine of the principal
          angles, 1 where the smaller space lies inside the larger
conflict  share of entries with opposite signs; unrelated LoRAs have one half
weighted  the same, weighed by the smaller entry: the share that cancels"""
