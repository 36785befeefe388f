package storage_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/workload-sts/sts/internal/etcdtest"
	"github.com/workload-sts/sts/internal/testserver"
	"github.com/workload-sts/sts/storage"
)

// load writes and reads without a pause, and knows what it was told.
type load struct {
	kv   storage.KV
	stop context.CancelFunc
	done sync.WaitGroup

	mu       sync.Mutex
	acked    []string // keys
	failed   int
	good     time.Time     // when a write was acknowledged last
	longest  time.Duration // without that
	asked    time.Time     // how fresh a watcher is
	revision int64
}

func newLoad(t *testing.T, kv storage.KV) *load {
	t.Helper()
	_, at, err := kv.List(t.Context(), "", "", 1)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	l := &load{kv: kv, stop: stop, good: time.Now(), revision: at}
	for w := range 3 {
		l.done.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				l.write(ctx, fmt.Sprintf("load/%d/%d", w, i))
			}
		})
	}
	l.done.Go(func() {
		for ctx.Err() == nil {
			kv.Watch(ctx, "load/", l.revision, func(c storage.Changes) error {
				l.mu.Lock()
				defer l.mu.Unlock()
				l.asked, l.revision = c.Asked, c.Revision
				return nil
			})
		}
	})
	t.Cleanup(l.end)
	return l
}

func (l *load) end() { l.stop(); l.done.Wait() }

func (l *load) write(ctx context.Context, key string) {
	_, _, err := l.kv.Txn(ctx, nil, []storage.Op{{Key: key}})
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case err == nil:
		l.longest = max(l.longest, time.Since(l.good))
		l.acked, l.good = append(l.acked, key), time.Now()
	case ctx.Err() == nil:
		l.failed++
	}
}

// begin forgets what was measured.
func (l *load) begin() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.failed, l.longest, l.good = 0, 0, time.Now()
}

// well waits until writes are acknowledged and watchers are fresh again.
func (l *load) well(t *testing.T, limit time.Duration) {
	t.Helper()
	from := time.Now()
	for {
		l.mu.Lock()
		good := l.good.After(from) && l.asked.After(from)
		l.mu.Unlock()
		if good {
			return
		}
		if time.Since(from) > limit {
			t.Fatalf("not well after %v", limit)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// report tells what was measured, and fails if it was down for longer.
func (l *load) report(t *testing.T, most time.Duration) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	t.Logf("%d writes in all, %d failed, %v without one", len(l.acked), l.failed, l.longest.Round(time.Millisecond))
	if l.longest > most {
		t.Errorf("no write for %v, at most %v were to be expected", l.longest, most)
	}
}

// TestEtcdFaults breaks three members under load. What is acknowledged stays, and
// all is well again soon.
func TestEtcdFaults(t *testing.T) {
	t.Parallel() // it waits most of the time
	c := etcdtest.Start(t, 3)
	o := etcdOptions(c)
	o.ExpiryMargin = time.Second
	kv := openEtcd(t, o)
	l := newLoad(t, kv)
	l.well(t, 10*time.Second)
	// Races and CI machines are slow; an election takes one to two seconds.
	const election, dead = 8 * time.Second, 10 * time.Second
	step := func(name string, most time.Duration, f func(t *testing.T)) {
		t.Run(name, func(t *testing.T) {
			l.begin()
			f(t)
			l.well(t, dead+5*time.Second)
			l.report(t, most)
		})
	}
	step("F19 follower killed", election, func(t *testing.T) {
		m := c.Follower(t)
		m.Kill(t)
		l.well(t, dead)
		m.Restart(t)
	})
	step("F18 leader killed", election, func(t *testing.T) {
		expires := time.Now().Add(2 * time.Second)
		if _, _, err := kv.Txn(t.Context(), nil, []storage.Op{{Key: "expires", Expires: expires}}); err != nil {
			t.Fatal(err)
		}
		m := c.Leader(t)
		m.Kill(t)
		l.well(t, dead)
		notEarly(t, kv, "expires", expires) // F25
		m.Restart(t)
	})
	step("F18 leader moved", election, func(t *testing.T) { c.MoveLeader(t) })
	step("F21 F22 cut off from one member", dead, func(t *testing.T) {
		m := c.Members[0]
		m.Proxy.Blackhole()
		l.well(t, dead)
		m.Proxy.Heal()
	})
	step("F24 member paused", dead, func(t *testing.T) {
		m := c.Leader(t)
		m.Pause(t)
		l.well(t, dead)
		m.Resume(t)
	})
	step("F20 quorum lost", time.Minute, func(t *testing.T) {
		c.Members[0].Kill(t)
		c.Members[1].Kill(t)
		refused(t, kv, l)
		c.Members[0].Begin(t)
		c.Members[1].Begin(t)
	})
	step("F21 cut off from all members", time.Minute, func(t *testing.T) {
		for _, m := range c.Members {
			m.Proxy.Blackhole()
		}
		refused(t, kv, l)
		for _, m := range c.Members {
			m.Proxy.Heal()
		}
	})
	l.end()
	list, _, err := kv.List(t.Context(), "load/", "", 0)
	if err != nil {
		t.Fatal(err)
	}
	there := map[string]bool{}
	for _, e := range list {
		there[e.Key] = true
	}
	for _, key := range l.acked {
		if !there[key] {
			t.Errorf("%s was acknowledged and is lost", key)
		}
	}
}

// refused holds that nothing is answered, nor confirmed to a watcher, and soon.
func refused(t *testing.T, kv storage.KV, l *load) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	begun := time.Now()
	_, getErr := kv.Get(ctx, "x")
	_, done, txnErr := kv.Txn(ctx, nil, []storage.Op{{Key: "x"}})
	took := time.Since(begun)
	if getErr == nil || errors.Is(getErr, storage.ErrNotFound) || txnErr == nil || done || took > 4*storage.DefaultEtcdTimeout {
		t.Errorf("%v, %v after %v", getErr, txnErr, took)
	}
	if ctx.Err() == nil && (errors.Is(getErr, context.DeadlineExceeded) || !strings.Contains(getErr.Error(), "etcd does not answer within 3s")) {
		t.Errorf("%v", getErr)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.asked.After(begun) {
		t.Errorf("a watcher was told at %v that all was known, from %v on nobody could say so", l.asked, begun)
	}
}

// notEarly waits until an entry is gone, which must not be before its moment.
func notEarly(t *testing.T, kv storage.KV, key string, moment time.Time) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		_, err := kv.Get(t.Context(), key)
		now := time.Now()
		if errors.Is(err, storage.ErrNotFound) {
			if now.Before(moment) {
				t.Errorf("gone %v early", moment.Sub(now))
			}
			return
		}
		if now.After(deadline) {
			t.Fatalf("still there at %v: %v", now, err)
		}
	}
}

// TestEtcdOne breaks what takes one member.
func TestEtcdOne(t *testing.T) {
	t.Parallel() // it waits most of the time
	c := etcdtest.Start(t, 1, etcdtest.WithQuota(16<<20))
	for name, f := range map[string]func(*testing.T, *etcdtest.Cluster){
		"F25 leases ended behind our back": etcdLeasesEnded,
		"F25 compaction under a watch":     etcdCompacted,
		"F25 quota":                        etcdQuota,
		"F27 certificates":                 etcdCertificates,
		"what others have written":         etcdForeign,
		"moved from a file and back":       etcdMoved,
	} {
		t.Run(name, func(t *testing.T) { f(t, c) })
	}
}

func etcdLeasesEnded(t *testing.T, c *etcdtest.Cluster) {
	kv := openEtcd(t, etcdOptions(c))
	expires := time.Now().Add(time.Hour)
	op := []storage.Op{{Key: "a", Expires: expires}}
	if _, _, err := kv.Txn(t.Context(), nil, op); err != nil {
		t.Fatal(err)
	}
	leases, err := c.Root().Leases(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range leases.Leases {
		if _, err := c.Root().Revoke(t.Context(), l.ID); err != nil {
			t.Fatal(err)
		}
	}
	if _, done, err := kv.Txn(t.Context(), []storage.Compare{{Key: "a"}}, op); err != nil || !done {
		t.Fatalf("with a lease that has ended: %v, %v", done, err)
	}
	r, err := c.Root().Get(t.Context(), "/test/", clientv3.WithPrefix())
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range r.Kvs {
		if k.Lease == 0 {
			continue
		}
		ttl, err := c.Root().TimeToLive(t.Context(), clientv3.LeaseID(k.Lease))
		if err != nil {
			t.Fatal(err)
		}
		if ends := time.Now().Add(time.Duration(ttl.TTL) * time.Second); ends.Before(expires.Add(time.Minute)) {
			t.Errorf("%s ends at %v", k.Key, ends)
		}
	}
}

// etcdCompacted cuts a watcher off until what it has missed is forgotten.
func etcdCompacted(t *testing.T, c *etcdtest.Cluster) {
	o := etcdOptions(c)
	kv := openEtcd(t, o)
	_, at, err := kv.List(t.Context(), "", "", 1)
	if err != nil {
		t.Fatal(err)
	}
	told, ended := make(chan storage.Changes, 1000), make(chan error, 1)
	go func() {
		ended <- kv.Watch(t.Context(), "", at, func(c storage.Changes) error { told <- c; return nil })
	}()
	<-told
	c.Members[0].Proxy.Refuse()
	for i := range 3 {
		if _, err := c.Root().Put(t.Context(), o.Prefix+"data/a", fmt.Sprintf("0\n%d", i)); err != nil {
			t.Fatal(err)
		}
	}
	c.Compact(t)
	c.Members[0].Proxy.Heal()
	select {
	case err := <-ended:
		if !errors.Is(err, storage.ErrCompacted) {
			t.Error(err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("the watcher is not told that it has missed something")
	}
	list, at, err := kv.List(t.Context(), "", "", 0)
	if err != nil || len(list) != 1 || string(list[0].Value) != "2" {
		t.Errorf("%v at %d: %v", list, at, err)
	}
}

func etcdQuota(t *testing.T, c *etcdtest.Cluster) {
	kv := openEtcd(t, etcdOptions(c))
	var err error
	value := make([]byte, 900<<10)
	for i := 0; i < 100 && err == nil; i++ {
		_, _, err = kv.Txn(t.Context(), nil, []storage.Op{{Key: "large", Value: value}})
	}
	if err == nil || !strings.Contains(err.Error(), "NOSPACE") || errors.Is(err, storage.ErrDoubt) || kv.Err() != nil {
		t.Fatalf("a full database: %v, %v", err, kv.Err())
	}
	if _, err := kv.Get(t.Context(), "large"); err != nil {
		t.Errorf("reading: %v", err)
	}
	if _, done, err := kv.Txn(t.Context(), nil, []storage.Op{{Key: "large", Delete: true}}); err != nil || !done {
		t.Errorf("deleting: %v, %v", done, err)
	}
	c.FreeSpace(t)
	c.Try(t, func(ctx context.Context) error {
		_, _, err := kv.Txn(ctx, nil, []storage.Op{{Key: "large"}})
		return err
	})
}

// etcdCertificates replaces all certificates, those of an authority that nobody
// knew before included, while the store is open.
func etcdCertificates(t *testing.T, c *etcdtest.Cluster) {
	o := etcdOptions(c)
	dir := t.TempDir()
	copied := func(name, from string) string {
		data, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(dir+"/"+name, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return dir + "/" + name
	}
	o.CAFile, o.CertFile, o.KeyFile = copied("ca", o.CAFile), copied("cert", o.CertFile), copied("key", o.KeyFile)
	kv := openEtcd(t, o)
	try := func() error { _, _, err := kv.Txn(t.Context(), nil, []storage.Op{{Key: "a"}}); return err }
	reconnect := func() { c.Members[0].Proxy.Refuse(); c.Members[0].Proxy.Heal() }

	c.Members[0].Certify(t)
	cert, key := c.CA.Issue(t, "another")
	copied("cert", cert)
	copied("key", key)
	reconnect()
	c.Try(t, func(context.Context) error { return try() })

	copied("ca", testserver.NewCA(t).File)
	reconnect()
	var err error
	for range 100 { // until the connection that there was is gone
		if err = try(); err != nil && strings.Contains(err.Error(), "x509") {
			break
		}
	}
	if err == nil || !strings.Contains(err.Error(), "certificate signed by unknown authority") {
		t.Errorf("another authority: %v", err)
	}
	begun := time.Now()
	copied("ca", c.CA.File)
	c.Try(t, func(context.Context) error { return try() })
	t.Logf("good again %v after the right authority was there", time.Since(begun).Round(time.Millisecond))
	if time.Since(begun) > 8*time.Second {
		t.Error("that is too long")
	}
}

func etcdForeign(t *testing.T, c *etcdtest.Cluster) {
	o := etcdOptions(c)
	put := func(key, value string) {
		if _, err := c.Root().Put(t.Context(), o.Prefix+key, value); err != nil {
			t.Fatal(err)
		}
	}
	refuses := func(want string) {
		t.Helper()
		kv, err := storage.OpenEtcd(t.Context(), o)
		if err == nil {
			kv.Close()
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("opened: %v, want %q", err, want)
		}
	}
	put("data/x", "0\n")
	refuses("has 1 keys, and not the record")
	put("store", `{"format": 2, "store": "x", "new": 1}`)
	refuses("has format 2, and this program reads format 1")
	put("store", `{"format": 1, "store": "x", "new": 1}`)
	refuses(`unknown field "new"`)
	o = etcdOptions(c)
	kv := openEtcd(t, o)
	put("data/y", "not ours")
	if _, err := kv.Get(t.Context(), "y"); err == nil || !strings.Contains(err.Error(), "has not written") {
		t.Errorf("%v", err)
	}
}

func etcdMoved(t *testing.T, c *etcdtest.Cluster) {
	from, to := newBolt(t), newBolt(t)
	etcd := openEtcd(t, etcdOptions(c))
	expires := time.Now().Add(time.Hour).Truncate(time.Second)
	const entries = 250 // of more than one transaction
	for i := range entries {
		op := storage.Op{Key: fmt.Sprintf("k/%03d", i), Value: fmt.Appendf(nil, "%d\n\x00", i)}
		if i%2 == 0 {
			op.Expires = expires
		}
		if _, _, err := from.Txn(t.Context(), nil, []storage.Op{op}); err != nil {
			t.Fatal(err)
		}
	}
	for _, pair := range [][2]storage.KV{{from, etcd}, {etcd, to}} {
		if n, err := storage.Copy(t.Context(), pair[0], pair[1]); n != entries || err != nil {
			t.Fatalf("copied %d: %v", n, err)
		}
	}
	want, _, err := from.List(t.Context(), "", "", 0)
	if err != nil {
		t.Fatal(err)
	}
	got, _, err := to.List(t.Context(), "", "", 0)
	if err != nil || len(got) != len(want) {
		t.Fatalf("%d entries, %v", len(got), err)
	}
	for i := range got {
		if a, b := got[i], want[i]; a.Key != b.Key || string(a.Value) != string(b.Value) || !a.Expires.Equal(b.Expires) {
			t.Errorf("%+v became %+v", b, a)
		}
	}
}

// TestEtcdLogin logs in as a user that may use its prefix alone, and changes the
// password.
func TestEtcdLogin(t *testing.T) {
	t.Parallel() // it waits most of the time
	c := etcdtest.Start(t, 1)
	o := etcdOptions(c)
	c.EnableAuth(t, o.Prefix, "first")
	file := t.TempDir() + "/password"
	password := func(s string) {
		if err := os.WriteFile(file, []byte(s+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	refuses := func(o storage.EtcdOptions, want string) {
		t.Helper()
		kv, err := storage.OpenEtcd(t.Context(), o)
		if err == nil {
			kv.Close()
		}
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "wrong") {
			t.Errorf("opened: %v, want %q", err, want)
		}
	}
	refuses(o, "etcd denies the user that the client certificate names, or nobody, what it needs")
	o.Username, o.PasswordFile = "sts", file
	password("wrong")
	refuses(o, `refuses the login of the user "sts"`)
	password("first")
	other := o
	other.Prefix = "/other/"
	refuses(other, `denies the user "sts" what it needs: grant its role readwrite on the prefix /other/`)
	kv := openEtcd(t, o)
	told := make(chan storage.Changes, 1000)
	go kv.Watch(t.Context(), "", 0, func(c storage.Changes) error { told <- c; return nil })
	try := func() error {
		_, _, err := kv.Txn(t.Context(), nil, []storage.Op{{Key: "a", Expires: time.Now().Add(time.Minute)}})
		return err
	}
	if err := try(); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Root().UserChangePassword(t.Context(), "sts", "second"); err != nil {
		t.Fatal(err)
	}
	if err := try(); err == nil || !strings.Contains(err.Error(), "password_file") {
		t.Errorf("with the old password: %v", err)
	}
	password("second")
	if err := try(); err != nil {
		t.Errorf("with the new password: %v", err)
	}
	changed := time.Now()
	for deadline := time.After(15 * time.Second); ; {
		select {
		case c := <-told:
			if c.Asked.After(changed) {
				return
			}
		case <-deadline:
			t.Fatal("watching does not go on after the password was changed")
		}
	}
}

// TestEtcdRestored loses what was acknowledged: running nodes see it, all refuse,
// and an operator lets the store be used again [F26].
func TestEtcdRestored(t *testing.T) {
	t.Parallel() // it waits most of the time
	for name, token := range map[string]string{"the same cluster with less": "", "another cluster": "second"} {
		t.Run(name, func(t *testing.T) {
			c := etcdtest.Start(t, 1)
			o := etcdOptions(c)
			kv := openEtcd(t, o)
			put := func(kv storage.KV, key string) error {
				_, _, err := kv.Txn(t.Context(), nil, []storage.Op{{Key: key}})
				return err
			}
			if err := put(kv, "kept"); err != nil {
				t.Fatal(err)
			}
			snapshot := c.Snapshot(t)
			for i := range 20 {
				if err := put(kv, fmt.Sprint("lost", i)); err != nil {
					t.Fatal(err)
				}
			}
			ended := make(chan error, 1)
			_, at, err := kv.List(t.Context(), "", "", 1)
			if err != nil {
				t.Fatal(err)
			}
			go func() { ended <- kv.Watch(t.Context(), "", at, func(storage.Changes) error { return nil }) }()
			c.Restore(t, snapshot, token)
			until(t, "the running store refuses", func() bool { return errors.Is(put(kv, "after"), storage.ErrRestored) })
			if _, err := kv.Get(t.Context(), "kept"); !errors.Is(err, storage.ErrRestored) {
				t.Errorf("reading: %v", err)
			}
			until(t, "a new one refuses", func() bool {
				other, err := storage.OpenEtcd(t.Context(), o)
				if err == nil {
					other.Close()
				}
				return errors.Is(err, storage.ErrRestored)
			})
			now := time.Now()
			why, err := storage.ConfirmEtcd(t.Context(), o, now)
			if err != nil || !strings.Contains(why, "of the etcd cluster was") {
				t.Fatalf("confirming: %q, %v", why, err)
			}
			// What runs knows what is not in the backup, so it never uses it again.
			until(t, "the running store ends for good", func() bool { return kv.Err() != nil })
			select {
			case err := <-ended:
				if !errors.Is(err, kv.Err()) {
					t.Errorf("a watcher was told %v", err)
				}
			case <-time.After(10 * time.Second):
				t.Error("a watcher was not told")
			}
			if err := put(kv, "again"); !errors.Is(err, kv.Err()) {
				t.Errorf("the running store is used again: %v", err)
			}
			kv = openEtcd(t, o)
			if err := errors.Join(put(kv, "again"), kv.Err()); err != nil {
				t.Errorf("a new one: %v", err)
			}
			if at, err := storage.NewStore(kv).Restored(t.Context()); err != nil || at.Unix() <= now.Unix() {
				t.Errorf("restored at %v, %v", at, err)
			}
			if why, err := storage.ConfirmEtcd(t.Context(), o, now); why != "" || err != nil {
				t.Errorf("confirming what is good: %q, %v", why, err)
			}
		})
	}
}

func until(t *testing.T, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !f(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("after 20 s still not: %s", what)
		}
	}
}
