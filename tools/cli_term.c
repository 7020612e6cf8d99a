#include "tools/cli_term.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "core/base/strbuf.h"
#include "core/base/system.h"

void cli_settle_threads(char **argv)
{
    if (getenv("OMP_WAIT_POLICY") || getenv("GOMP_SPINCOUNT"))
        return;
    if (setenv("GOMP_SPINCOUNT", "10000", 1) != 0 || setenv("OPENBLAS_NUM_THREADS", "1", 0) != 0)
        return;
    char path[4096]; /* where the link cannot be read, the defaults stay */
    ssize_t n = readlink("/proc/self/exe", path, sizeof path - 1);
    if (n <= 0)
        return;
    path[n] = '\0';
    execv(path, argv);
}

int cli_report(const char *program, const struct lt_error *err)
{
    fflush(stdout);
    fprintf(stderr, "%s%s: %s\n", cli_stderr_is_terminal() ? "\r\033[K" : "", program, err->message);
    if (err->status == LT_ERR_INVALID)
        return 2;
    return err->status == LT_ERR_CANCELLED ? 130 : 1;
}

static void on_signal(int number)
{
    if (lt_cancel_requested()) /* the second time: at once */
        _exit(128 + number);
    lt_cancel_request();
}

static void print_log(void *user, enum lt_log_level level, const char *message)
{
    if (level == LT_LOG_DEBUG)
        return;
    fprintf(stderr, "%s%s: %s%s\n", cli_stderr_is_terminal() ? "\r\033[K" : "", (const char *)user,
            level == LT_LOG_WARNING ? "warning: " : "", message);
}

void cli_init(const char *program)
{
    struct sigaction action, inherited;
    memset(&action, 0, sizeof action);
    action.sa_handler = on_signal;
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    if (sigaction(SIGHUP, NULL, &inherited) == 0 && inherited.sa_handler != SIG_IGN) /* not under nohup */
        sigaction(SIGHUP, &action, NULL);
    lt_log_set(print_log, (void *)(uintptr_t)program);
}

bool cli_stdout_is_terminal(void)
{
    return isatty(STDOUT_FILENO) != 0;
}

bool cli_stderr_is_terminal(void)
{
    return isatty(STDERR_FILENO) != 0;
}

int cli_terminal_width(void)
{
    struct winsize w;
    if (ioctl(STDERR_FILENO, TIOCGWINSZ, &w) == 0 && w.ws_col >= 40)
        return w.ws_col;
    return 80;
}

const char *cli_bytes(char *buf, size_t size, uint64_t bytes)
{
    static const char *const unit[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    double v = (double)bytes;
    size_t u = 0;
    for (; v >= 1024 && u < 4; u++)
        v /= 1024;
    lt_snprintf(buf, size,
                u == 0    ? "%.0f %s"
                : v < 10  ? "%.2f %s"
                : v < 100 ? "%.1f %s"
                          : "%.0f %s",
                v, unit[u]);
    return buf;
}

const char *cli_duration(char *buf, size_t size, double seconds)
{
    long long s = seconds > 0 ? (long long)(seconds + 0.5) : 0;
    if (s >= 86400)
        lt_snprintf(buf, size, "%lldd %02lldh", s / 86400, s / 3600 % 24);
    else if (s >= 3600)
        lt_snprintf(buf, size, "%lldh %02lldm", s / 3600, s / 60 % 60);
    else if (s >= 60)
        lt_snprintf(buf, size, "%lldm %02llds", s / 60, s % 60);
    else
        lt_snprintf(buf, size, "%llds", s);
    return buf;
}

const char *cli_count(char *buf, size_t size, uint64_t n)
{
    char digits[24];
    lt_snprintf(digits, sizeof digits, "%llu", (unsigned long long)n);
    size_t len = strlen(digits), at = 0;
    for (size_t i = 0; i < len && at + 2 < size; i++) {
        if (i > 0 && (len - i) % 3 == 0)
            buf[at++] = ',';
        buf[at++] = digits[i];
    }
    buf[at] = '\0';
    return buf;
}
