"""What happens at the edges of a history of the pool: names that change owners, endless failures, faults in between."""

import streamrt
from pool.world import make, needs


def emptied(world, pool, names):
    """Unregister these and close the pool, which must not wait for anything that never comes."""

    def work():
        for name in names:
            pool.unregister(name)
        pool.close()

    world.spawn(work)
    world.run()
    assert pool._keeper.ledger.total == 0


def test_a_prefetch_beside_another_model_of_the_same_name():
    world, _, pool = make(100, {"a": needs(40)})
    future = pool.prefetch("a")  # whose thread has not run when the name gets another owner
    pool.unregister("a")
    pool.register("a", "a.file")
    world.run()
    assert future.result(0) is None
    assert [line.leases for line in pool.index()] == [0]
    emptied(world, pool, ["a"])


def test_a_prefetch_of_a_model_that_is_gone():
    world, _, pool = make(100, {"a": needs(40)})
    future = pool.prefetch("a")
    pool.unregister("a")
    world.run()
    assert isinstance(future.exception(0), streamrt.UnknownModelError)
    emptied(world, pool, [])
