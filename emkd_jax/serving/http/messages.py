"""What requests and answers look like."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StrictInt, StrictStr, model_validator

from emkd_jax.serving.http.scorer import MOST_HISTORY, MOST_K

_MOST_LETTERS = 1000

Id = StrictInt | Annotated[StrictStr, Field(max_length=_MOST_LETTERS)]


class _Request(BaseModel):
    model_config = ConfigDict(extra='forbid')


class Asker(_Request):
    """Who asks: a user of the data, or anybody with a history."""

    user: Id | None = Field(None, description='A user of the data.')
    history: list[Id] | None = Field(
        None, max_length=MOST_HISTORY, description='Items, the oldest first.'
    )
    k: int = Field(10, strict=True, ge=1, le=MOST_K, description='Number of items.')
    exclude_seen: bool = Field(
        True, strict=True, description='Whether to leave out the items of the history.'
    )

    @model_validator(mode='after')
    def _one_of_both(self) -> 'Asker':
        if (self.user is None) == (self.history is None):
            raise ValueError('give either a user or a history')
        return self


class Recommend(Asker):
    """Asks for recommendations."""

    network: int | None = Field(
        None, strict=True, ge=0, description='The one network that recommends; all if left out.'
    )


class Similar(_Request):
    """Asks for the items that are most like an item."""

    item: Id
    k: int = Field(10, strict=True, ge=1, le=MOST_K, description='Number of items.')


class Item(BaseModel):
    """An item."""

    item: int | str
    title: str | None = Field(None, description='Left out where the data has no titles.')


class ScoredItem(Item):
    """An item with its score."""

    score: float


class Recommendations(BaseModel):
    """Items, the best first."""

    items: list[ScoredItem]
    unknown: list[int | str] = Field(
        description='Items of the history that the model does not know; they were left out.'
    )
    epoch: int = Field(description='The epoch of the model that answered.')


class SimilarItems(BaseModel):
    """Items, the most alike first."""

    items: list[ScoredItem]


class Reason(Item):
    """The item of the history that is nearest to a recommended one."""

    similarity: float


class ExplainedItem(Item):
    """A recommended item, and why."""

    score: float | None = Field(description='Null for the baseline.')
    because: Reason | None = Field(description='Null without a history.')


class NamedList(BaseModel):
    """What one scorer recommends."""

    name: str
    items: list[ExplainedItem]


class Comparison(BaseModel):
    """What the ensemble, each network and the first-order Markov baseline recommend."""

    history: list[Item]
    unknown: list[int | str]
    lists: list[NamedList]
    epoch: int


class Items(BaseModel):
    """Items that were found."""

    items: list[Item]


class Users(BaseModel):
    """Users that were found."""

    users: list[int | str]


class Health(BaseModel):
    """Whether the server answers, and with what."""

    status: str = Field(description="'ok'; 'stale' if the workdir cannot be read any more.")
    problem: str
    run: str
    epoch: int
    seconds: float = Field(description='Since this checkpoint was loaded.')


class RunOverview(BaseModel):
    """The run that is served, for people to look at."""

    name: str
    data: dict[str, Any]
    epoch: int
    rule: str
    metrics: list[str]
    tests: dict[str, dict[str, float]] = Field(
        description='Metrics by scorer; empty before the end.'
    )
    curves: dict[str, list[tuple[int, float]]] = Field(
        description='Validation NDCG@10 under the rule, by epoch, of each scorer.'
    )


class Problem(BaseModel):
    """Why a request could not be answered."""

    error: str
