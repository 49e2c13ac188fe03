"""Pools of real models: calls that check answers."""

from model import zoo
from streamrt import ModelPool
from streamrt.pool import ModelStatus


def width(name):
    return int(name[1:])


def call(pool, files, name, samples=1, seed=0, timeout=None):
    x = zoo.random_input(samples, width(name), seed=seed)
    with pool.lease(name, timeout) as model:
        y = model(x)
        assert model.plan.total <= model.budget
    zoo.assert_close(y, files[name].answer(x))


def filled(files, budget, **options):
    pool = ModelPool(budget, **options)
    for name, packed in files.items():
        pool.register(name, packed.path)
    return pool


def status(pool: ModelPool, name: str) -> ModelStatus:
    return next(line for line in pool.index() if line.name == name)
