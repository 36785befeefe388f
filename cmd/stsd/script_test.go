package main

import (
	"context"
	"os"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	stsv1 "github.com/workload-sts/sts/gen/sts/v1"
	"github.com/workload-sts/sts/policy"
	"github.com/workload-sts/sts/storage"
	"github.com/workload-sts/sts/sts"
	"github.com/workload-sts/sts/sts/resource"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"stsd": func() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) },
	})
}

// TestScripts runs the commands as an operator does; see testdata. What the
// scripts have besides:
//
//	await FILE     waits until a file is there
//	envfile FILE   takes over the NAME=value lines of a file
//	dangle STORE   puts a Rule into a store whose Audience does not exist
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:  "testdata",
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"await": await, "envfile": envfile, "dangle": dangle},
		Setup: func(e *testscript.Env) error {
			e.Setenv("GORACE", "atexit_sleep_ms=0") // else each process waits a second
			return nil
		},
	})
}

func await(ts *testscript.TestScript, _ bool, args []string) {
	file := ts.MkAbs(args[0])
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if _, err := os.Stat(file); err == nil {
			return
		}
	}
	ts.Fatalf("%s is not there after 20 s", args[0])
}

func envfile(ts *testscript.TestScript, _ bool, args []string) {
	env, err := readEnv(ts.MkAbs(args[0]))
	ts.Check(err)
	for name, value := range env {
		ts.Setenv(name, value)
	}
}

func dangle(ts *testscript.TestScript, _ bool, args []string) {
	kv, err := storage.OpenBolt(ts.MkAbs(args[0]), storage.BoltOptions{})
	ts.Check(err)
	store, ctx := storage.NewStore(kv), context.Background()
	_, revision, err := store.Load(ctx)
	ts.Check(err)
	rule := &policy.Rule{Name: "dangling", Requester: policy.Requester{Clients: []string{demo}}, Allow: policy.Allow{Audiences: []string{"nowhere"}}}
	_, err = store.Commit(ctx, revision, []sts.Resource{{Rule: rule}}, nil)
	ts.Check(err)
	ts.Check(kv.Close())
}

// TestExampleConfiguration holds that the configuration that is shipped has only
// keys that exist.
func TestExampleConfiguration(t *testing.T) {
	data, err := os.ReadFile("../../deploy/stsd.yaml")
	if err != nil {
		t.Fatal(err)
	}
	c := &stsv1.ServerConfig{}
	if _, problems := resource.Decode("stsd.yaml", data, c); len(problems) > 0 {
		t.Error(problems)
	}
	if c.Issuer == "" || c.Http.Tls.CertFile == "" || c.Audit.File == "" {
		t.Errorf("the example leaves out what is required: %v", c)
	}
}
