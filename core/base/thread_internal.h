/* Starting threads, shared by the files of this folder. */
#ifndef LT_BASE_THREAD_INTERNAL_H
#define LT_BASE_THREAD_INTERNAL_H

#include <pthread.h>

/* With all signals blocked: handlers run on the program's own threads.  An errno value, 0: it runs. */
int lt_thread_start(pthread_t *thread, void *(*run)(void *user), void *user);

#endif
