/* Preloaded into a process, moves its wall clock for Python and every library in it.

   WRONG_CLOCK names a file of 8 bytes, mapped here: the seconds by which the clock is wrong. Waits
   for a moment of that clock end as they would had the machine's own clock moved. (libfaketime's
   sleep fails with EINVAL where the monotonic clock is left alone, as Python's sleep needs it.)

   cc -shared -fPIC -o wrong_clock.so wrong_clock.c */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>

static volatile long long zero, *wrong = &zero;

__attribute__((constructor)) static void begin(void) {
  int file = open(getenv("WRONG_CLOCK"), O_RDONLY);
  void *map = mmap(0, sizeof *wrong, PROT_READ, MAP_SHARED, file, 0);
  if (map != MAP_FAILED) wrong = map;
}

#define REAL(name) ((typeof(&name))dlsym(RTLD_NEXT, #name))

int clock_gettime(clockid_t clock, struct timespec *now) {
  static typeof(&clock_gettime) real;
  if (!real) real = REAL(clock_gettime);
  int code = real(clock, now);
  if (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE) now->tv_sec += *wrong;
  return code;
}

int gettimeofday(struct timeval *now, void *zone) {
  struct timespec exact;
  int code = clock_gettime(CLOCK_REALTIME, &exact);
  now->tv_sec = exact.tv_sec;
  now->tv_usec = exact.tv_nsec / 1000;
  return code;
}

time_t time(time_t *kept) {
  struct timespec exact;
  clock_gettime(CLOCK_REALTIME, &exact);
  if (kept) *kept = exact.tv_sec;
  return exact.tv_sec;
}

/* The kernel's moment for one of the wrong clock; the monotonic clock's are small numbers. */
static struct timespec right(const struct timespec *until) {
  struct timespec moment = *until;
  if (moment.tv_sec > 400000000) moment.tv_sec -= *wrong;
  if (moment.tv_sec < 0) moment.tv_sec = 0;
  return moment;
}

int pthread_cond_timedwait(pthread_cond_t *condition, pthread_mutex_t *lock,
                           const struct timespec *until) {
  static typeof(&pthread_cond_timedwait) real;
  /* The version with today's layout of a condition; plain dlsym finds the one of 1997. */
  if (!real) real = (typeof(real))dlvsym(RTLD_NEXT, "pthread_cond_timedwait", "GLIBC_2.3.2");
  if (!real) real = REAL(pthread_cond_timedwait);
  struct timespec moment = right(until);
  return real(condition, lock, &moment);
}

int sem_timedwait(sem_t *semaphore, const struct timespec *until) {
  static typeof(&sem_timedwait) real;
  if (!real) real = REAL(sem_timedwait);
  struct timespec moment = right(until);
  return real(semaphore, &moment);
}
