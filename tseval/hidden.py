"""Hidden states in a session: read once, and kept in the run's arrays."""

from typing import TYPE_CHECKING

import msgspec

from .errors import ConfigError
from .memo import Memo, content_key
from .requests import HiddenStatesRequest
from .rollouts import Model

if TYPE_CHECKING:
    import numpy as np

    from .arrays import ArrayStore


async def hidden_states_of(
    memo: Memo, arrays: "ArrayStore | None", model: Model, request: HiddenStatesRequest
) -> "np.ndarray":
    """Find hidden states in the run's arrays, or have a model read them.

    Args:
        memo: The session's.
        arrays: Where they are kept.
        model: Who reads them.
        request: What is read.

    Returns:
        float32, as ``Backend.hidden_states`` returns them.

    Raises:
        ConfigError: There is no place to keep them.
        CapabilityMissing: The backend cannot read them.
        RequestFailed, BackendUnavailable: As for ``Memo.call``.
    """
    model.require("hidden_states")
    if arrays is None:
        raise ConfigError("this session was made without a place for arrays")
    key = content_key(["hidden", model.identity, msgspec.to_builtins(request)])

    async def keep(values: "np.ndarray") -> dict[str, str]:
        # Written before the record that points to it: a pointer is never dangling.
        return {"array": await arrays.write(key, values)}

    pointer = await memo.call(
        "hidden", key, dict[str, str], model, lambda: model.backend.hidden_states(request), keep
    )
    return arrays.read(pointer["array"])
