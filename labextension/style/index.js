// Each feature has a sheet of its own; its classes begin with jp-dstack-.
import './chat.css';
import './logs.css';
import './sidebar.css';
import './status.css';
import './typing.css';
