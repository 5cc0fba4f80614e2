/* The native core as one unit, so that the compiler can inline across files. A file uses little of those
 * that follow it. */
#include "loop.c"
#include "parking.c"
#include "channel.c"
#include "operations.c"
#include "many.c"
#include "select.c"
#include "waiter.c"
#include "types.c"
#include "scheduler.c"
#include "actor.c"
#include "task.c"
#include "module.c"
