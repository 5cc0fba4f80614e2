/* The native core as one unit, so that the compiler sees what a hop costs as a whole. In an order in
 * which each file needs little of those that follow. */
#include "queue.c"
#include "channel.c"
#include "operation.c"
#include "many.c"
#include "select.c"
#include "sleeper.c"
#include "scheduler.c"
#include "actor.c"
#include "task.c"
#include "module.c"
