#include "node/wiper.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/queue.h>
#include <sys/stat.h>
#include <time.h>

#include "base/clock.h"
#include "base/map.h"
#include "base/mem.h"
#include "node/volume.h"

#define LINGER_MS 5000u /* so long the last mounts of a node that has ended are waited for */
#define LOOK_MS 20

struct job {
    TAILQ_ENTRY(job) link;
    char *path, *dir;
    char id[VOLUME_ID_MAX];
    bool attached_too, failed;
    uint64_t since_ms; /* when it was asked for */
    off_t at, size;
    struct err why; /* when it failed */
};

struct wiper {
    pthread_mutex_t lock;
    pthread_cond_t rung;
    pthread_t thread;
    bool started, ends;
    struct map *jobs; /* path → struct job *, those that failed, too */
    TAILQ_HEAD(, job) queue;
    void (*changed)(void *arg);
    void *arg;
};

static void job_free(void *p)
{
    struct job *j = p;
    mem_free(j->path);
    mem_free(j->dir);
    mem_free(j);
}

/* One step of the first, which is the last then. With the lock, but during the step: a job that is at work is in the map and not in the queue. */
static void step(struct wiper *w)
{
    struct job *j = TAILQ_FIRST(&w->queue);
    off_t at = j->at;
    bool done = false;
    struct err why = ERR_INIT;
    TAILQ_REMOVE(&w->queue, j, link);
    bool lingers = j->attached_too, force = lingers && clock_mono_ms() - j->since_ms > LINGER_MS;
    pthread_mutex_unlock(&w->lock);
    int rc = volume_wipe_step(j->dir, j->id, force, &at, &done, &why);
    if (rc == ERR_BUSY && lingers) { /* a node that has just ended: its mounts go, or what a copy has frozen is in the way */
        volume_thaw(j->dir, j->id);
        nanosleep(&(struct timespec){.tv_nsec = LOOK_MS * 1000000L}, NULL);
        rc = 0;
    }
    bool over = rc < 0 || done;
    pthread_mutex_lock(&w->lock);
    j->at = at;
    if (rc < 0) {
        j->failed = true;
        j->why = why;
    } else if (done)
        map_del(w->jobs, str_of(j->path));
    else
        TAILQ_INSERT_TAIL(&w->queue, j, link);
    if (!over || !w->changed)
        return;
    pthread_mutex_unlock(&w->lock);
    w->changed(w->arg);
    pthread_mutex_lock(&w->lock);
}

static void *serve(void *arg)
{
    struct wiper *w = arg;
    pthread_mutex_lock(&w->lock);
    while (!w->ends)
        if (TAILQ_EMPTY(&w->queue))
            pthread_cond_wait(&w->rung, &w->lock);
        else
            step(w);
    pthread_mutex_unlock(&w->lock);
    return NULL;
}

struct wiper *wiper_new(void (*changed)(void *arg), void *arg)
{
    struct wiper *w = XNEW(struct wiper);
    *w = (struct wiper){.jobs = map_new(job_free), .changed = changed, .arg = arg};
    TAILQ_INIT(&w->queue);
    pthread_mutex_init(&w->lock, NULL);
    pthread_cond_init(&w->rung, NULL);
    return w;
}

void wiper_free(struct wiper *w)
{
    if (!w)
        return;
    pthread_mutex_lock(&w->lock);
    w->ends = true;
    pthread_cond_signal(&w->rung);
    pthread_mutex_unlock(&w->lock);
    if (w->started)
        pthread_join(w->thread, NULL);
    map_free(w->jobs);
    pthread_cond_destroy(&w->rung);
    pthread_mutex_destroy(&w->lock);
    mem_free(w);
}

/* With the lock. *ret_left grows by what is to be done. */
static int want(struct wiper *w, const char *dir, const char *id, bool attached_too, bool *ret_done, int64_t *ret_left, struct err *err)
{
    CLEANUP(mem_freep) char *path = volume_path(dir, id);
    struct job *j = map_getc(w->jobs, path);
    struct stat st;
    int rc = 0;
    *ret_done = false;
    if (!j) {
        if (lstat(path, &st) < 0) {
            *ret_done = errno == ENOENT;
            return *ret_done ? 0 : err_sys(err, errno, "%s", path);
        }
        int eno = w->started ? 0 : pthread_create(&w->thread, NULL, serve, w); /* most never wipe anything */
        if (eno)
            return err_sys(err, eno, "a thread that wipes");
        w->started = true;
        j = XNEW(struct job);
        *j = (struct job){.path = xstrdup(path), .dir = xstrdup(dir), .size = st.st_size, .since_ms = clock_mono_ms()};
        snprintf(j->id, sizeof(j->id), "%s", id);
        map_set(w->jobs, str_of(j->path), j);
    } else if (j->failed)
        rc = err_set(err, j->why.code, "%s", j->why.msg);
    else {
        j->attached_too |= attached_too;
        *ret_left += MAX(j->size - j->at, 0);
        return 0;
    }
    j->failed = false;
    j->attached_too = attached_too;
    *ret_left += MAX(j->size - j->at, 0);
    TAILQ_INSERT_TAIL(&w->queue, j, link);
    pthread_cond_signal(&w->rung);
    return rc;
}

int wiper_volume(struct wiper *w, const char *dir, const char *id, bool *ret_done, struct err *err)
{
    int64_t left = 0;
    pthread_mutex_lock(&w->lock);
    int rc = want(w, dir, id, false, ret_done, &left, err);
    pthread_mutex_unlock(&w->lock);
    return rc;
}

struct all {
    struct wiper *w;
    const char *dir;
    int64_t left;
    bool some;
    int rc;
    struct err *err;
};

static void want_one(void *arg, const char *id)
{
    struct all *a = arg;
    struct err why = ERR_INIT;
    bool done;
    int rc = want(a->w, a->dir, id, true, &done, &a->left, &why);
    if (rc < 0 && a->rc == 0)
        a->rc = err_set(a->err, rc, "%s", why.msg);
    a->some |= !done;
}

int wiper_all(struct wiper *w, const char *dir, bool *ret_done, int64_t *ret_left, struct err *err)
{
    struct all a = {.w = w, .dir = dir, .err = err};
    pthread_mutex_lock(&w->lock);
    volumes_each(dir, want_one, &a);
    pthread_mutex_unlock(&w->lock);
    *ret_done = !a.some && a.rc == 0;
    *ret_left = a.left;
    return a.rc;
}
