"""The paper: Merged Preference Dimensions in pure torch, to be read in a quarter of an hour.

Open ``decode.py`` first: the whole method in one loop. Then, in the paper's order:

===================  ==========================================================================
``preferences.py``   dimensions, their poles, and a preference xi: one pole, or none, of each
``merging.py``       Eq. 1, sum_i alpha_i p_i, and its counterparts in the space of logits
``weight_head.py``   alpha: the PCM's head, a softmax over the poles that the preference chose
``reward.py``        Eq. 2, sigmoid(r - r_ref), and one reward from those of several poles
``rebel.py``         the loss that the PCM is trained with
``ppo.py``           the other one
``token_credit.py``  ours: REBEL's regression with an advantage for each token
``soup.py``          Personalized Soups: the baseline that merges parameters
``static.py``        constant weights: the grid that they are sought on, and their names
===================  ==========================================================================

The engine, training, evaluation and the benchmark import these; nothing here imports them, and no
formula of these stands anywhere else. ``preferences.py``, ``reward.py`` and ``static.py`` can be
imported without torch.
"""
