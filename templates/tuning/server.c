/* A device server for TVM's RPC without Python: TVM's runtime library serves, this program listens.
 *
 *   server [--host 127.0.0.1] [--port 9090] [--key KEY] [--tracker HOST:PORT] [--announce HOST:PORT]
 *          [--limit SECONDS]
 *
 * Whoever reaches the port can run any code as this user: TVM's RPC has no authentication. It therefore
 * listens on the loopback interface unless told otherwise; reach it with `adb forward` or an SSH tunnel.
 *
 * One client at a time, so that no measurement disturbs another. Each is served by a child process: a client
 * that crashes it, or that stays longer than its own or the server's limit, does not end the server.
 * The wire: magic, key, answer (tvm/rpc/base.py), then TVM's own loop. A tracker takes JSON messages.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/prctl.h>
#endif

enum { MAGIC = 0xFF271, MISMATCH = MAGIC + 2, TRACKER_MAGIC = 0x2F271 };
enum { TRACKER_SUCCESS = 0, TRACKER_PUT = 3, TRACKER_UPDATE_INFO = 5, TRACKER_PENDING = 7 };
enum { KEY_BYTES = 256, MESSAGE_BYTES = 1 << 16, PING_MS = 2000, TRACKER_RETRY_S = 5, GREETING_S = 5 };

/* ---- TVM's C interface, as far as it is needed ("tvm/ffi/c_api.h") ------------------------------ */

typedef struct {
  int32_t type;
  uint32_t padding;
  union {
    int64_t integer;
    const char *text;
    void *pointer;
    char bytes[8];
  } value;
} tvm_any;
typedef struct {
  const char *data;
  size_t size;
} tvm_bytes;
enum { TVM_NONE = 0, TVM_INT = 1, TVM_RAW_TEXT = 8, TVM_BYTES_POINTER = 9, TVM_SMALL_TEXT = 11, TVM_TEXT = 65 };
enum { TVM_OBJECT_HEADER = 24 };
typedef int (*tvm_call)(void *self, const tvm_any *arguments, int32_t count, tvm_any *result);

extern int TVMFFIFunctionCreate(void *self, tvm_call call, void (*deleter)(void *), void **out);
extern int TVMFFIFunctionSetGlobal(const tvm_bytes *name, void *function, int may_replace);
extern int TVMFFIFunctionGetGlobal(const tvm_bytes *name, void **out);
extern int TVMFFIFunctionCall(void *function, tvm_any *arguments, int32_t count, tvm_any *result);
extern int TVMFFIStringFromByteArray(const tvm_bytes *text, tvm_any *out);
extern void TVMFFIErrorSetRaisedFromCStr(const char *kind, const char *message);

static volatile sig_atomic_t stopped;
static void stop(int number) {
  (void)number;
  stopped = 1;
}

static void say(const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  (void)fputs("mnv3c device server: ", stderr);
  (void)vfprintf(stderr, format, arguments);
  (void)fputc('\n', stderr);
  va_end(arguments);
}

/* Copies the text that an argument holds; 0 if it is none, or too long, or leaves the work folder. */
static int file_name(const tvm_any *a, char *to, size_t room) {
  tvm_bytes text = {NULL, 0};
  if (a->type == TVM_RAW_TEXT) {
    text.data = a->value.text;
    text.size = strlen(text.data);
  } else if (a->type == TVM_SMALL_TEXT) {
    text.data = a->value.bytes;
    text.size = a->padding;
  } else if (a->type == TVM_TEXT) {
    memcpy(&text, (const char *)a->value.pointer + TVM_OBJECT_HEADER, sizeof text);
  } else if (a->type == TVM_BYTES_POINTER) {
    memcpy(&text, a->value.pointer, sizeof text);
  }
  if (text.data == NULL || text.size == 0 || text.size >= room || memchr(text.data, '/', text.size) != NULL) {
    return 0;
  }
  memcpy(to, text.data, text.size);
  to[text.size] = 0;
  return strcmp(to, "..") != 0;
}

static char work_folder[512];

static int path_in_work_folder(const tvm_any *arguments, int32_t count, char *path, size_t room) {
  char name[256];
  if (count != 1 || !file_name(&arguments[0], name, sizeof name)) {
    TVMFFIErrorSetRaisedFromCStr("ValueError", "a plain file name is needed");
    return 0;
  }
  (void)snprintf(path, room, "%s/%s", work_folder, name);
  return 1;
}

static int workpath(void *self, const tvm_any *arguments, int32_t count, tvm_any *result) {
  char path[1024];
  (void)self;
  if (!path_in_work_folder(arguments, count, path, sizeof path)) {
    return -1;
  }
  return TVMFFIStringFromByteArray(&(tvm_bytes){path, strlen(path)}, result);
}

static void *global_function(const char *name) {
  void *function = NULL;
  if (TVMFFIFunctionGetGlobal(&(tvm_bytes){name, strlen(name)}, &function) != 0 || function == NULL) {
    say("TVM's runtime has no %s; is it the version this was built for?", name);
    exit(1);
  }
  return function;
}

static int load_module(void *self, const tvm_any *arguments, int32_t count, tvm_any *result) {
  char path[1024];
  tvm_any argument = {TVM_RAW_TEXT, 0, {0}};
  (void)self;
  if (!path_in_work_folder(arguments, count, path, sizeof path)) {
    return -1;
  }
  argument.value.text = path;
  return TVMFFIFunctionCall(global_function("ffi.ModuleLoadFromFile"), &argument, 1, result);
}

static void register_function(const char *name, tvm_call call) {
  void *function = NULL;
  if (TVMFFIFunctionCreate(NULL, call, NULL, &function) != 0 ||
      TVMFFIFunctionSetGlobal(&(tvm_bytes){name, strlen(name)}, function, 1) != 0) {
    say("cannot register %s with TVM's runtime", name);
    exit(1);
  }
}

/* ---- sockets ------------------------------------------------------------------------------------ */

static int send_all(int s, const void *data, size_t bytes) {
  for (const char *p = data; bytes != 0;) {
    const ssize_t n = send(s, p, bytes, MSG_NOSIGNAL);
    if (n <= 0) {
      return 0;
    }
    p += n;
    bytes -= (size_t)n;
  }
  return 1;
}

static int receive_all(int s, void *data, size_t bytes) {
  for (char *p = data; bytes != 0;) {
    const ssize_t n = recv(s, p, bytes, 0);
    if (n <= 0) {
      return 0;
    }
    p += n;
    bytes -= (size_t)n;
  }
  return 1;
}

static void limit_waiting(int s, int seconds) {
  const struct timeval t = {seconds, 0};
  (void)setsockopt(s, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof t);
}

/* A socket connected or bound to `host` and `port`; -1 with the reason in errno. */
static int open_socket(const char *host, const char *port, int listening) {
  struct addrinfo hints = {0}, *found = NULL;
  int s = -1;
  hints.ai_socktype = SOCK_STREAM;
  if (getaddrinfo(host, port, &hints, &found) != 0) {
    errno = EADDRNOTAVAIL;
    return -1;
  }
  for (const struct addrinfo *a = found; a != NULL && s < 0; a = a->ai_next) {
    const int one = 1;
    s = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (s < 0) {
      continue;
    }
    (void)setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (listening ? bind(s, a->ai_addr, a->ai_addrlen) != 0 || listen(s, 4) != 0
                  : connect(s, a->ai_addr, a->ai_addrlen) != 0) {
      const int reason = errno;
      (void)close(s);
      errno = reason;
      s = -1;
    }
  }
  freeaddrinfo(found);
  return s;
}

static int port_of(int s) {
  struct sockaddr_storage a;
  socklen_t bytes = sizeof a;
  (void)getsockname(s, (struct sockaddr *)&a, &bytes);
  return ntohs(a.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&a)->sin6_port : ((struct sockaddr_in *)&a)->sin_port);
}

/* "HOST:PORT" in two parts; 0 if it is not. */
static int split_address(char *text, char **host, char **port) {
  char *colon = strrchr(text, ':');
  if (colon == NULL || colon == text || colon[1] == 0) {
    return 0;
  }
  *colon = 0;
  *host = text;
  *port = colon + 1;
  return 1;
}

/* ---- the tracker -------------------------------------------------------------------------------- */

static struct {
  char *host, *port;
  int socket;
  char match_key[KEY_BYTES]; /* what a client that the tracker sends will say */
  time_t next_try;
  int unmatched; /* pings since a client got the key and did not come */
} tracker = {NULL, NULL, -1, "", 0, 0};

static int tracker_ask(const char *message, char *answer) {
  int32_t bytes = (int32_t)strlen(message);
  if (!send_all(tracker.socket, &bytes, 4) || !send_all(tracker.socket, message, (size_t)bytes) ||
      !receive_all(tracker.socket, &bytes, 4) || bytes < 0 || bytes >= MESSAGE_BYTES ||
      !receive_all(tracker.socket, answer, (size_t)bytes)) {
    return 0;
  }
  answer[bytes] = 0;
  return 1;
}

static void tracker_lost(const char *why) {
  if (tracker.socket >= 0) {
    say("%s the tracker; trying again", why);
    (void)close(tracker.socket);
    tracker.socket = -1;
  }
  tracker.next_try = time(NULL) + TRACKER_RETRY_S;
}

/* Tells the tracker that this device is free, under a new random key. */
static void tracker_offer(const char *key, const char *host, int port) {
  char message[1024], answer[MESSAGE_BYTES];
  uint64_t random = (uint64_t)time(NULL);
  (void)!getrandom(&random, sizeof random, 0);
  (void)snprintf(tracker.match_key, sizeof tracker.match_key, "%s:%llu", key, (unsigned long long)random);
  (void)snprintf(message, sizeof message, "[%d, \"%s\", [%d, \"%s\"], \"%s\"]", TRACKER_PUT, key, port,
                 tracker.match_key, host);
  if (!tracker_ask(message, answer) || atoi(answer) != TRACKER_SUCCESS) {
    tracker_lost("lost");
  }
  tracker.unmatched = 0;
}

static void tracker_connect(const char *key, const char *host, int port) {
  char message[1024], answer[MESSAGE_BYTES];
  int32_t magic = TRACKER_MAGIC;
  if (time(NULL) < tracker.next_try) {
    return;
  }
  tracker.socket = open_socket(tracker.host, tracker.port, 0);
  if (tracker.socket < 0) {
    say("cannot reach the tracker at %s:%s (%s)", tracker.host, tracker.port, strerror(errno));
    tracker.next_try = time(NULL) + TRACKER_RETRY_S;
    return;
  }
  limit_waiting(tracker.socket, GREETING_S);
  (void)snprintf(message, sizeof message, "[%d, {\"key\": \"server:%s\", \"addr\": [\"%s\", %d]}]",
                 TRACKER_UPDATE_INFO, key, host, port);
  if (!send_all(tracker.socket, &magic, 4) || !receive_all(tracker.socket, &magic, 4) || magic != TRACKER_MAGIC ||
      !tracker_ask(message, answer)) {
    tracker_lost("no answer from");
    return;
  }
  tracker_offer(key, host, port);
}

/* A client that asked the tracker for this device and never came must not keep it for ever. */
static void tracker_ping(const char *key, const char *host, int port) {
  char message[32], answer[MESSAGE_BYTES];
  (void)snprintf(message, sizeof message, "[%d]", TRACKER_PENDING);
  if (!tracker_ask(message, answer)) {
    tracker_lost("lost");
  } else if (strstr(answer, tracker.match_key) != NULL) {
    tracker.unmatched = 0;
  } else if (++tracker.unmatched > 3) {
    tracker_offer(key, host, port);
  }
}

/* ---- serving ------------------------------------------------------------------------------------ */

/* Reads the client's magic and key and answers. On success, the session's limit in seconds. */
static double greet(int client, const char *expected, const char *key, double limit) {
  char given[KEY_BYTES * 2], wanted[KEY_BYTES + 8], own[KEY_BYTES + 8], *options;
  int32_t magic = 0, bytes = 0;
  limit_waiting(client, GREETING_S);
  if (!receive_all(client, &magic, 4)) {
    return -1; /* only wanted to know whether somebody listens */
  }
  if (magic != MAGIC || !receive_all(client, &bytes, 4) || bytes < 0 ||
      bytes >= (int32_t)sizeof given || !receive_all(client, given, (size_t)bytes)) {
    say("a client that does not speak TVM's RPC");
    return -1;
  }
  given[bytes] = 0;
  options = strchr(given, ' ');
  if (options != NULL) {
    *options++ = 0;
    options = strstr(options, "-timeout=");
  }
  if (options != NULL) {
    const double asked = atof(options + strlen("-timeout="));
    limit = asked > 0 && asked < limit ? asked : limit;
  }
  (void)snprintf(wanted, sizeof wanted, "client:%s", expected);
  if (strcmp(given, wanted) != 0) {
    magic = MISMATCH;
    (void)send_all(client, &magic, 4);
    say("a client with another key");
    return -1;
  }
  (void)snprintf(own, sizeof own, "server:%s", key);
  bytes = (int32_t)strlen(own);
  if (!send_all(client, &magic, 4) || !send_all(client, &bytes, 4) || !send_all(client, own, (size_t)bytes)) {
    return -1;
  }
  limit_waiting(client, 0);
  return limit;
}

static void empty_folder(const char *folder) {
  DIR *d = opendir(folder);
  for (const struct dirent *e = d != NULL ? readdir(d) : NULL; e != NULL; e = readdir(d)) {
    char path[1024];
    (void)snprintf(path, sizeof path, "%s/%s", folder, e->d_name);
    (void)unlink(path);
  }
  if (d != NULL) {
    (void)closedir(d);
  }
  (void)rmdir(folder);
}

static _Noreturn void serve(int client) {
  tvm_any argument = {TVM_INT, 0, {0}}, result = {TVM_NONE, 0, {0}};
  register_function("tvm.rpc.server.workpath", workpath);
  register_function("tvm.rpc.server.load_module", load_module);
  argument.value.integer = client;
  _exit(TVMFFIFunctionCall(global_function("rpc.ServerLoop"), &argument, 1, &result) == 0 ? 0 : 1);
}

static void serve_in_child(int listener, int client, double limit) {
  const char *base = getenv("TMPDIR");
  int status = 0, over = 0;
  pid_t child;
  (void)snprintf(work_folder, sizeof work_folder, "%s/mnv3c-rpc-XXXXXX", base != NULL ? base : "/tmp");
  if (mkdtemp(work_folder) == NULL) {
    say("cannot make a folder in %s (%s); set TMPDIR", base != NULL ? base : "/tmp", strerror(errno));
    return;
  }
  child = fork();
  if (child == 0) {
    (void)setpgid(0, 0);
    (void)signal(SIGINT, SIG_DFL);
    (void)signal(SIGTERM, SIG_DFL);
    (void)signal(SIGHUP, SIG_DFL);
#ifdef __linux__
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
#endif
    (void)close(listener);
    if (tracker.socket >= 0) {
      (void)close(tracker.socket);
    }
    serve(client);
  }
  for (double waited = 0; child > 0 && waitpid(child, &status, WNOHANG) == 0; waited += 0.01) {
    /* The peer may have gone while a kernel runs: nobody reads that end of the connection then. */
    const struct timespec t = {0, 10000000};
    struct pollfd gone = {client, POLLRDHUP, 0};
    if (waited > limit || poll(&gone, 1, 0) > 0) {
      over += 1;
    }
    if (stopped || waited > limit || over > 100) {
      if (!stopped) {
        say(waited > limit ? "a session was longer than %g s" : "the client has gone", limit);
      }
      (void)kill(-child, SIGKILL);
      (void)kill(child, SIGKILL);
      (void)waitpid(child, &status, 0);
      break;
    }
    (void)nanosleep(&t, NULL);
  }
  if (WIFSIGNALED(status) && WTERMSIG(status) != SIGKILL) {
    say("a session ended with signal %d", WTERMSIG(status));
  }
  empty_folder(work_folder);
}

static const char *option(int argc, char **argv, const char *name, const char *otherwise) {
  for (int i = 1; i + 1 < argc; i += 2) {
    if (strcmp(argv[i], name) == 0) {
      return argv[i + 1];
    }
  }
  return otherwise;
}

static int known_options(int argc, char **argv) {
  static const char *const known[] = {"--host", "--port", "--key", "--tracker", "--announce", "--limit"};
  for (int i = 1; i < argc; i += 2) {
    int found = 0;
    for (size_t k = 0; k < sizeof known / sizeof known[0]; ++k) {
      found |= strcmp(argv[i], known[k]) == 0;
    }
    if (!found || i + 1 >= argc) {
      say("use: %s [--host HOST] [--port PORT] [--key KEY] [--tracker HOST:PORT] [--announce HOST:PORT]"
          " [--limit SECONDS]",
          argv[0]);
      return 0;
    }
  }
  return 1;
}

int main(int argc, char **argv) {
  const char *host, *key, *announced_host;
  char *announce;
  double limit;
  int listener, announced_port;
  if (!known_options(argc, argv)) {
    return 2;
  }
  host = option(argc, argv, "--host", "127.0.0.1");
  key = option(argc, argv, "--key", "");
  limit = atof(option(argc, argv, "--limit", "600"));
  if (limit <= 0) {
    say("--limit: seconds");
    return 2;
  }
  if (strlen(key) > KEY_BYTES - 32 || strpbrk(key, " \"\\:") != NULL) {
    say("--key: letters, digits, - and _");
    return 2;
  }
  listener = open_socket(host, option(argc, argv, "--port", "9090"), 1);
  if (listener < 0) {
    say("cannot listen on %s port %s (%s)", host, option(argc, argv, "--port", "9090"), strerror(errno));
    return 2;
  }
  announced_host = host;
  announced_port = port_of(listener);
  announce = strdup(option(argc, argv, "--announce", ""));
  if (announce != NULL && announce[0] != 0) {
    char *h, *p;
    if (!split_address(announce, &h, &p)) {
      say("--announce: HOST:PORT");
      return 2;
    }
    announced_host = h;
    announced_port = atoi(p);
  }
  if (option(argc, argv, "--tracker", NULL) != NULL) {
    if (!split_address(strdup(option(argc, argv, "--tracker", "")), &tracker.host, &tracker.port) || key[0] == 0) {
      say("--tracker: HOST:PORT, and --key is needed with it");
      return 2;
    }
  }
  (void)signal(SIGPIPE, SIG_IGN);
  (void)sigaction(SIGINT, &(struct sigaction){.sa_handler = stop}, NULL);
  (void)sigaction(SIGTERM, &(struct sigaction){.sa_handler = stop}, NULL);
  if (signal(SIGHUP, SIG_IGN) != SIG_IGN) { /* the cable was pulled out; nohup keeps it ignored */
    (void)sigaction(SIGHUP, &(struct sigaction){.sa_handler = stop}, NULL);
  }
  if (strcmp(host, "127.0.0.1") != 0 && strcmp(host, "::1") != 0) {
    say("whoever reaches %s port %d can run any code as this user: TVM's RPC has no authentication", host,
        port_of(listener));
  }
  (void)printf("listening on %s:%d\n", host, port_of(listener));
  (void)fflush(stdout);

  while (!stopped) {
    struct pollfd ready = {listener, POLLIN, 0};
    int client;
    double session;
    if (tracker.host != NULL && tracker.socket < 0) {
      tracker_connect(key, announced_host, announced_port);
    }
    if (poll(&ready, 1, PING_MS) <= 0) {
      if (tracker.socket >= 0 && !stopped) {
        tracker_ping(key, announced_host, announced_port);
      }
      continue;
    }
    client = accept(listener, NULL, NULL);
    if (client < 0) {
      continue;
    }
    (void)setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
    (void)setsockopt(client, SOL_SOCKET, SO_KEEPALIVE, &(int){1}, sizeof(int));
    session = greet(client, tracker.host != NULL ? tracker.match_key : key, key, limit);
    if (session > 0) {
      serve_in_child(listener, client, session);
      if (tracker.socket >= 0) {
        tracker_offer(key, announced_host, announced_port);
      }
    }
    (void)close(client);
  }
  return 0;
}
