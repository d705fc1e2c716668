
// Appended to client.ts: calls what is defined there and prints what came of it.
const completed = runAgentAndWait('ok', { question: 'Why?' });
const failed = runAgentAndWait('raises', {}).catch(error => ({ isError: error instanceof Error, message: error.message }));

const manager = new ExecutionManager();
const running = await manager.start('waits', {});
const waiting = await manager.start('waits', {});
while ((await (await fetch(`http://127.0.0.1:8001/executions/${running}`)).json()).status !== 'RUNNING');
await manager.cancelAll();

console.log(JSON.stringify({ completed: await completed, failed: await failed, canceled: [running, waiting] }));
