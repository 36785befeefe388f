package etcdtest

import (
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// Leader returns the member that leads.
func (c *Cluster) Leader(t testing.TB) *Member {
	t.Helper()
	var leader *Member
	c.Try(t, func(ctx context.Context) error {
		for _, m := range c.Members {
			if m.run == nil {
				continue
			}
			status, err := c.root.Status(ctx, m.client)
			if err != nil {
				return err
			}
			if status.Leader != 0 && status.Leader == status.Header.MemberId {
				leader = m
				return nil
			}
		}
		return context.DeadlineExceeded // nobody leads at the moment
	})
	return leader
}

// Follower returns a member that runs and does not lead.
func (c *Cluster) Follower(t testing.TB) *Member {
	t.Helper()
	leader := c.Leader(t)
	for _, m := range c.Members {
		if m != leader && m.run != nil {
			return m
		}
	}
	t.Fatal("no member follows")
	return nil
}

// MoveLeader makes another member lead.
func (c *Cluster) MoveLeader(t testing.TB) {
	t.Helper()
	from, to := c.Leader(t), c.Follower(t)
	client := c.connect(t, []string{from.client}, "", "")
	defer client.Close()
	c.Try(t, func(ctx context.Context) error {
		status, err := c.root.Status(ctx, to.client)
		if err != nil || status.Leader == status.Header.MemberId {
			return err
		}
		_, err = client.MoveLeader(ctx, status.Header.MemberId)
		return err
	})
}

// Compact forgets what was before the present revision.
func (c *Cluster) Compact(t testing.TB) {
	t.Helper()
	c.Try(t, func(ctx context.Context) error {
		now, err := c.root.Get(ctx, "etcdtest")
		if err != nil {
			return err
		}
		_, err = c.root.Compact(ctx, now.Header.Revision, clientv3.WithCompactPhysical())
		return err
	})
}

// FreeSpace compacts, gives the space back and ends the alarm of a full quota.
func (c *Cluster) FreeSpace(t testing.TB) {
	t.Helper()
	c.Compact(t)
	c.Try(t, func(ctx context.Context) error {
		for _, m := range c.Members {
			if _, err := c.root.Defragment(ctx, m.client); err != nil {
				return err
			}
		}
		_, err := c.root.AlarmDisarm(ctx, &clientv3.AlarmMember{})
		return err
	})
}

// EnableAuth makes the users root and sts, of which the second may read and write
// keys that begin with prefix, and demands a login from then on.
func (c *Cluster) EnableAuth(t testing.TB, prefix, password string) {
	t.Helper()
	ctx := context.Background()
	for _, step := range []func() error{
		func() error { _, err := c.root.UserAdd(ctx, "root", "root"); return err },
		func() error { _, err := c.root.UserGrantRole(ctx, "root", "root"); return err },
		func() error { _, err := c.root.RoleAdd(ctx, "sts"); return err },
		func() error {
			_, err := c.root.RoleGrantPermission(ctx, "sts", prefix, clientv3.GetPrefixRangeEnd(prefix), clientv3.PermissionType(clientv3.PermReadWrite))
			return err
		},
		func() error { _, err := c.root.UserAdd(ctx, "sts", password); return err },
		func() error { _, err := c.root.UserGrantRole(ctx, "sts", "sts"); return err },
		func() error { _, err := c.root.AuthEnable(ctx); return err },
	} {
		if err := step(); err != nil {
			t.Fatal(err)
		}
	}
	var urls []string
	for _, m := range c.Members {
		urls = append(urls, m.client)
	}
	c.root = c.connect(t, urls, "root", "root")
}

// Snapshot saves what the cluster has, and returns the file.
func (c *Cluster) Snapshot(t testing.TB) string {
	t.Helper()
	// A member may lag behind what others have acknowledged, until it is read from.
	client := c.connect(t, []string{c.Leader(t).client}, "", "")
	defer client.Close()
	c.Try(t, func(ctx context.Context) error { _, err := client.Get(ctx, "etcdtest"); return err })
	file := filepath.Join(t.TempDir(), "snapshot")
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	data, err := client.Snapshot(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	defer data.Close()
	if _, err := io.Copy(f, data); err != nil {
		t.Fatal(err)
	}
	return file
}

// Restore ends the cluster and starts it again with what a snapshot has. With a
// token it becomes another cluster; without, it has the id that it had.
func (c *Cluster) Restore(t testing.TB, snapshot, token string) {
	t.Helper()
	if token != "" {
		c.token = token
	}
	for _, m := range c.Members {
		m.stop()
		if err := os.RemoveAll(m.dir); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(c.binary, append(m.args("new"), "-restore", snapshot)...)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("restoring: %v\n%s", err, out)
		}
	}
	c.start(t, "existing")
	c.ready(t)
}
